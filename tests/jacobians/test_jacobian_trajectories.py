"""Ranks along the walk of a sampler, and edits of what it passes."""

import math

import pytest
import torch
from small_denoisers import network

from difflow import Denoiser, MoLRG, Scheduler, VEDenoiser, heun, normal, sample
from difflow.jacobians import (
    Rank,
    RankCurve,
    edit,
    ranks_along,
    trajectory,
    trajectory_ranks,
)

X = torch.zeros(2, 1, 4, 4)


# The walk


def test_walk_is_that_of_the_sampler():
    denoiser = network()
    states = list(heun(denoiser, 80 * normal((3, 1, 4, 4), [5, 6, 7]), Scheduler.karras(8)))
    walk = list(trajectory(denoiser, seeds=[5, 6, 7], steps=8))
    assert len(walk) == 8 and walk[0][0] == pytest.approx(80) and walk[-1][0] == pytest.approx(0.002)
    for (sigma, x), state in zip(walk[1:], states):
        assert sigma == state.sigma
        torch.testing.assert_close(x, state.x)
    end = sample(denoiser, (3, 1, 4, 4), seeds=[5, 6, 7], steps=8, progress=False)
    torch.testing.assert_close(denoiser(walk[-1][1], 0.002).detach(), end, atol=1e-4, rtol=0)


def test_chosen_levels_join_the_walk():
    denoiser = network()
    walk = dict(trajectory(denoiser, seeds=[0], steps=6, at=[3.0, 0.2]))
    assert list(walk) == [3.0, 0.2] and not any(x.is_inference() for x in walk.values())


def test_labels_are_passed_on():
    denoiser = network(num_classes=2)
    first, second = (trajectory_ranks(denoiser, 4, range(3), labels=label) for label in (0, 1))
    both = trajectory_ranks(denoiser, 4, [0, 0], labels=torch.tensor([0, 1]))
    assert (
        both.rank[:, 0].tolist() == first.rank[:, 0].tolist()
        and both.rank[:, 1].tolist() == second.rank[:, 0].tolist()
    )
    with pytest.raises(ValueError, match='labels are missing'):
        trajectory_ranks(denoiser, 4, range(3))


def test_curve_interval_and_union():
    curve = trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 6, range(8))
    assert isinstance(curve, RankCurve) and curve.rank.shape == (6, 8) and bool(curve.found.all())
    assert curve.rank[0].tolist() == [6] * 8 and curve.rank[-1].tolist() == [3] * 8
    low, high = curve.interval()
    assert bool((low <= curve.mean()).all()) and bool((curve.mean() <= high).all())
    parts = [
        trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 6, seeds) for seeds in (range(3), range(3, 8))
    ]
    assert torch.equal(parts[0].and_points(parts[1]).rank, curve.rank)
    with pytest.raises(ValueError, match='share dimension and levels'):
        curve.and_points(trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 5, range(2)))


def test_callback_sees_every_level():
    seen = []
    trajectory_ranks(MoLRG(2, 12, 2, seed=0).denoiser, 5, range(2), callback=lambda s, r: seen.append((s, r)))
    assert [s for s, _ in seen] == Scheduler.karras(5).walk()[:-1] and all(
        isinstance(r, Rank) for _, r in seen
    )


# Edits


# What is refused


class Counting(Denoiser):
    image_shape, calls = (1, 4, 4), 0

    def denoise(self, x, sigma, labels):
        self.calls += 1
        return x / (1 + sigma.to(x.dtype) ** 2)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(k=17), 'k must be an integer in 1..16, got 17'),
        (dict(chunk=0), 'chunk must be'),
        (dict(probes=1), 'probes must be'),
        (dict(iterations=-1), 'iterations must be'),
        (dict(energy=1.0), 'energy must be'),
        (dict(labels=1), 'has no classes'),
    ],
)
def test_ranks_refuse_before_the_walk(options, message):
    denoiser = Counting()
    late = dict(at=[0.01])  # the walk is long before it comes here
    with pytest.raises(ValueError, match=message):
        trajectory_ranks(denoiser, 4, range(2), **late | options)
    with pytest.raises(TypeError, match='itrations'):
        trajectory_ranks(denoiser, 4, range(2), itrations=1, **late)
    with pytest.raises(ValueError, match=message):
        ranks_along(denoiser, seeds=range(2), walk=late, **options)  # no item asked for
    assert denoiser.calls == 0


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: trajectory(network(), steps=0), 'steps must be an integer >= 1, got 0'),
        (lambda: trajectory(network(), at=[]), 'at must name at least one'),
        (lambda: trajectory(network(), at=[math.nan]), 'at must be a number > 0, got nan'),
        (lambda: trajectory(VEDenoiser(network().net), at=[200.0]), 'sigma must be in 0.02..100, got 200'),
        (lambda: trajectory_ranks(network(), energy=2.0), 'energy must be a number > 0 and < 1, got 2.0'),
        (lambda: edit(network(), X, 1.0, X[0], [1.0]), r'x must be \(1, C, H, W\)'),
        (lambda: edit(network(), X[:1], 1.0, X[0], []), 'strengths must be finite'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
