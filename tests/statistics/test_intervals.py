"""The intervals of shares against resampling one by one and exact limits."""

import math

import numpy as np
import pytest
from scipy import stats

from difflow.statistics import bootstrap_interval, mean_error


@pytest.mark.parametrize('count, share', [(50, 0.5), (400, 0.05), (1000, 0.9)])
def test_interval_is_that_of_resampled_samples(count, share):
    "Draw samples with replacement, one by one, and look at the spread of the shares"
    successes = round(count * share)
    hits = np.arange(count) < successes
    rng = np.random.default_rng(1)
    shares = np.array([hits[rng.integers(0, count, count)].mean() for _ in range(4000)])
    low, high = bootstrap_interval(successes, count)
    assert (
        abs(low - np.quantile(shares, 0.025)) < 1.5 / count + 0.004
        and abs(high - np.quantile(shares, 0.975)) < 1.5 / count + 0.004
    )
    assert low < share < high


def test_interval_where_all_samples_agree():
    "The limit is the share at which such a sample has a probability of 2.5 %"
    low, high = bootstrap_interval(0, 20)
    assert low == 0 and (1 - high) ** 20 == pytest.approx(0.025)
    low, high = bootstrap_interval(20, 20)
    assert high == 1 and low**20 == pytest.approx(0.025)


def test_interval_is_reproducible_and_wider_at_a_higher_level():
    assert bootstrap_interval(30, 100) == bootstrap_interval(30, 100)
    low, high = bootstrap_interval(30, 100, 0.99)
    assert low < bootstrap_interval(30, 100)[0] and bootstrap_interval(30, 100)[1] < high


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(successes=5, n=4), r'successes must be an integer in 0..4, got 5'),
        (dict(successes=-1), 'successes must be'),
        (dict(successes=1.5), 'successes must be'),
        (dict(successes=float('nan')), 'successes must be'),
        (dict(successes=True), 'successes must be'),
        (dict(successes=0, n=0), 'n must be an integer >= 1, got 0'),
        (dict(n=4.5), 'n must be'),
        (dict(level=1.0), 'level must be a number > 0 and < 1, got 1.0'),
        (dict(level=95), 'level must be'),
        (dict(level=float('nan')), 'level must be'),
        (dict(resamples=0), 'resamples must be an integer >= 1, got 0'),
        (dict(seed=-1), 'seed must be'),
    ],
)
def test_bad_shares_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**(dict(successes=1, n=4) | change))


@pytest.mark.parametrize(
    'values, draws, message',
    [
        (np.ones(6), 4, 'draws must divide the 6 images, got 4'),
        (np.ones(6), 0, 'draws must be an integer >= 1, got 0'),
        (np.ones(6), 1.5, 'draws must be'),
        (np.ones((3, 0)), 1, 'of at least one image'),
        (1.0, 1, 'of at least one image'),
    ],
)
def test_bad_means_are_refused(values, draws, message):
    with pytest.raises(ValueError, match=message):
        mean_error(values, draws)


def test_numbers_of_numpy_are_numbers():
    assert bootstrap_interval(np.int64(3), np.int64(10)) == bootstrap_interval(3, 10)


@pytest.mark.parametrize('n', [2, 5, 16, 60])
def test_interval_of_a_mean_is_that_of_students_t(n):
    "Half the width of resampled means, at the tail of t, is t s / sqrt(n) but for the tails of 2 or 5 values"
    rng = np.random.default_rng(n)
    ratios = []
    for _ in range(20):
        values = rng.normal(3, 2, n)
        low, high = bootstrap_interval(values=values, resamples=1500)
        half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
        assert low <= values.mean() <= high
        ratios.append((high - low) / 2 / half)
    if n >= 16:
        assert 0.93 < np.mean(ratios) < 1.04
    assert max(ratios) < 1.15  # a resample reaches no further than its values


def test_what_is_drawn_again_is_the_last_axis_with_all_that_belongs_to_it():
    "Copies of a grammar's numbers at many levels add nothing: the interval is that of one level"
    values = np.random.default_rng(0).normal(size=16)
    one = bootstrap_interval(values=values, resamples=500)
    many = bootstrap_interval(values=np.tile(values, (7, 1)), statistic=np.mean, resamples=500)
    np.testing.assert_allclose(one, many, rtol=1e-12)
    low, high = bootstrap_interval(values=np.tile(values, (7, 1)), resamples=500)
    np.testing.assert_allclose([low, high], np.repeat(np.array(one)[:, None], 7, 1), rtol=1e-12)


def test_interval_of_a_statistic_moves_with_it():
    values = np.random.default_rng(1).normal(size=(2, 20))

    def ratio(drawn):
        return drawn[0].mean() / (3 + drawn[1].mean())

    low, high = bootstrap_interval(values=values, statistic=ratio, resamples=300)
    again = bootstrap_interval(values=values, statistic=lambda drawn: 5 - 2 * ratio(drawn), resamples=300)
    np.testing.assert_allclose(again, (5 - 2 * high, 5 - 2 * low), rtol=1e-12)
    assert low < ratio(values) < high
    wide = bootstrap_interval(values=values, statistic=ratio, resamples=300, level=0.99)
    assert wide[0] < low and high < wide[1]
    assert bootstrap_interval(values=values, statistic=ratio, resamples=300) == (low, high)
    assert bootstrap_interval(values=values, statistic=ratio, resamples=300, seed=1) != (low, high)


def test_a_resample_without_an_answer_leaves_none():
    low, high = bootstrap_interval(values=np.arange(4.0), statistic=lambda drawn: np.nan, resamples=20)
    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(values=[1.0]), r'values must be finite \(..., N\) with N >= 2'),
        (dict(values=3.0), r'values must be finite \(..., N\) with N >= 2'),
        (dict(values=[1.0, math.inf]), 'values must be finite'),
        (dict(values=['a', 'b']), 'values must be numbers'),
        (dict(successes=1), 'successes and n, or values, can be given'),
        (dict(n=4), 'successes and n, or values, can be given'),
        (dict(statistic=3), 'statistic must be'),
        (dict(values=None), 'statistic is of values, got no values'),
        (dict(values=None, statistic=None), 'successes and n, or values, are needed'),
        (dict(level=1), 'level must be'),
        (dict(resamples=0), 'resamples must be'),
        (dict(seed=-1), 'seed must be'),
    ],
)
def test_bad_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**(dict(values=[1.0, 2.0], statistic=np.mean, resamples=20) | change))
