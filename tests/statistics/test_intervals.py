"""The intervals of shares against resampling one by one and exact limits."""

import numpy as np
import pytest

from difflow.statistics import bootstrap_interval


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
    'successes, n, level, words',
    [(1, 2, 1.0, 'level must be in'), (5, 4, 0.95, 'successes must be in 0..n'), (0, 0, 0.95, 'n >= 1')],
)
def test_bad_shares_are_refused(successes, n, level, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(successes, n, level)
