"""The intervals of shares against resampling one by one and exact limits."""

import numpy as np
import pytest

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
