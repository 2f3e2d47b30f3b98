"""The fit of a transition: simulated falls of known place and width, and data that hold none."""

import math

import numpy as np
import pytest

from difflow import fit_transition
from difflow.statistics import Transition

LEVELS = np.linspace(0, 1, 13)
GAP = LEVELS[1]


def fall(midpoint, width, chance=0.1, levels=LEVELS):
    return chance + (1 - chance) / (1 + np.exp(np.clip((levels - midpoint) / width, -500, 500)))


def images(share, n, seed):
    return np.random.default_rng(seed).random((len(share), n)) < share[:, None]


@pytest.mark.parametrize('width', [0.02 * GAP, 0.2 * GAP, 0.75 * GAP, 2 * GAP])
def test_the_interval_holds_the_midpoint_however_steep_the_fall(width):
    "19 of 20 are expected: a fall between two levels, too, whose fit has no freedom left to scatter"
    inside = 0
    for seed in range(20):
        truth = 0.4 + np.random.default_rng([7, seed]).random() * GAP
        fit = fit_transition(LEVELS, images(fall(truth, width), 40, seed), 0.1, bootstrap=24)
        assert fit.found and fit.midpoint_low < fit.midpoint_high and fit.width_low < fit.width_high
        inside += fit.midpoint_low <= truth <= fit.midpoint_high
    assert inside >= 15  # fewer once in 300, at 90 %


@pytest.mark.parametrize('chance', [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    'share, words',
    [
        (np.ones(6), 'kept at every level'),
        (np.full(6, 0.97), 'kept at every level'),
        (np.zeros(6), 'kept at every level'),
        (np.full(6, -0.5), 'kept at every level'),  # half way to chance, see below
        (np.array([0, 0, 0, 1, 1, 1.0]), 'does not fall'),
    ],
)
def test_no_midpoint_where_nothing_falls(share, words, chance):
    share = np.where(share == -0.5, chance / 2, share)
    fit = fit_transition(np.linspace(0, 1, 6), np.repeat(share[:, None], 30, 1), chance, 20)
    assert np.isnan(fit[:6]).all() and not fit.found and words in fit.reason
    assert np.isnan(fit.curve(LEVELS)).all()


def test_noise_around_half_way_is_no_transition():
    "A constant share of one half crosses it by chance: hardly ever is that called a fall"
    fits = [fit_transition(LEVELS, images(np.full(13, 0.55), 40, seed), 0.1, 20) for seed in range(60)]
    called = [fit for fit in fits if fit.found]
    assert len(called) <= 8  # 2.5 % of them go down by more than noise explains
    assert all(fit.midpoint_high - fit.midpoint_low > 0.3 for fit in called)


def test_resamples_without_a_fall_leave_the_interval_open():
    "Half way lies close to the last level: some resamples never come down to it"
    share = fall(0.95, 0.1)
    fits = [fit_transition(LEVELS, images(share, 20, seed), 0.1, 40) for seed in range(12)]
    fits = [fit for fit in fits if fit.found]
    open_ends = [fit for fit in fits if fit.midpoint_high == math.inf]
    assert len(fits) >= 6 and open_ends
    for fit in fits:
        assert fit.midpoint_low <= fit.midpoint <= fit.midpoint_high and fit.midpoint <= 1
        assert not np.isnan(fit[:6]).any() and 0 <= fit.width_low <= fit.width_high


def test_a_step_lies_between_its_two_levels():
    kept = np.repeat((LEVELS < 0.45)[:, None], 300, 1)
    fit = fit_transition(LEVELS, kept, 0.0, 20)
    assert (fit.midpoint_low, fit.midpoint_high) == (LEVELS[5], LEVELS[6]) and fit.width_low == 0
    assert LEVELS[5] <= fit.midpoint <= LEVELS[6] and fit.width <= fit.width_high < GAP


KEPT = images(fall(0.45, 0.06), 30, 0).astype(float)
NAN = np.where(np.arange(13)[:, None] == 3, np.nan, KEPT)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(levels=LEVELS[::-1]), 'levels must be finite and ascend'),
        (dict(levels=np.where(LEVELS == 0.5, np.nan, LEVELS)), 'levels must be finite and ascend'),
        (dict(levels=np.append(LEVELS[:-1], np.inf)), 'levels must be finite and ascend'),
        (dict(levels=np.zeros(13)), 'levels must be finite and ascend'),
        (dict(levels=LEVELS[:-1]), r'got \(13, 30\) for 12 levels'),
        (dict(levels=LEVELS[:2], kept=KEPT[:2]), 'S >= 3 levels'),
        (dict(levels=0.5), 'for 1 levels'),
        (dict(kept=KEPT[:, :1]), 'N >= 2 images'),
        (dict(kept=KEPT[:, 0]), 'N >= 2 images'),
        (dict(kept=2 * KEPT), 'kept must be in 0..1, got 0.0..2.0'),
        (dict(kept=KEPT - 1), 'kept must be in 0..1'),
        (dict(kept=NAN), 'kept must be in 0..1, got nan'),
        (dict(chance=1.0), 'chance must be a number >= 0 and < 1, got 1.0'),
        (dict(chance=-0.1), 'chance must be'),
        (dict(chance=float('nan')), 'chance must be'),
        (dict(chance='0.1'), 'chance must be'),
        (dict(bootstrap=19), 'bootstrap must be an integer >= 20, got 19'),
        (dict(bootstrap=20.5), 'bootstrap must be'),
        (dict(seed=-1), 'seed must be'),
        (dict(seed=None), 'seed must be'),
    ],
)
def test_bad_curves_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit_transition(**(dict(levels=LEVELS, kept=KEPT, chance=0.1) | change))


@pytest.mark.parametrize('chance', [0.0, 0.1, 0.5])
@pytest.mark.parametrize('q', [0.01, 0.1, 0.2])
def test_the_critical_window_is_where_the_curve_says(chance, q):
    fall = Transition(0.4, 0.3, 0.5, 0.05, 0.04, 0.06, chance)
    low, high = fall.window(q)
    assert fall.curve([low, high]) == pytest.approx([1 - q, chance + q], abs=1e-12)
    assert low < 0.4 < high and low + high == pytest.approx(0.8)


def test_a_window_has_two_ends():
    fall = Transition(0.4, 0.3, 0.5, 0.05, 0.04, 0.06, 0.5)
    for q in (0, 0.25, -1, float('nan'), 'x', None):
        with pytest.raises(ValueError, match='q must be a number > 0 and < 0.25'):
            fall.window(q)
