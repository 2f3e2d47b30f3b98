"""EDM's sampler and its ablations against the published numbers."""

import math

import numpy as np
import pytest
import torch

from difflow import Denoiser, EDMDenoiser, IDDPMDenoiser, Scheduler, SongUNet, heun
from difflow.samplers import ablation_sample, ablation_sampler, discretize
from difflow.samplers.ablation import _AblationSampler, _NoiseTrajectory
from edm_networks import TINY, ramp
from golden import EDM_LEVELS, FIXTURES, fill, wave

GOLDEN = np.load(FIXTURES / 'edm.npz')


class Stub(Denoiser):
    "D = x / (1 + 4 sigma^2), rounded to float32 as the reference does."

    def __init__(self, low=0.0, high=math.inf):
        super().__init__()
        self.sigma_min, self.sigma_max = low, high

    def denoise(self, x, sigma, labels):
        return (x.double() / (1 + 4 * sigma**2)).float()


def close(x, total, size, first):
    "Compare sum, sum of magnitudes and first numbers of 32 numbers to the printed digits."
    assert x.sum().item() == pytest.approx(total, abs=3e-5)
    assert x.abs().sum().item() == pytest.approx(size, abs=3e-5)
    assert x.flatten()[:3].tolist() == pytest.approx(first, abs=3e-6)


LATENTS = ramp(2, 1, 4, 4).float().double()


@pytest.mark.parametrize('sampler', [heun, _AblationSampler()])
def test_18_steps(sampler):
    *_, last = sampler(Stub(), 80 * LATENTS, Scheduler.karras(18))
    close(last.x, 0.219435, 10.862798, [0.527625, 0.524989, 0.517107])


@pytest.mark.parametrize('sampler', [heun, _AblationSampler()])
def test_18_steps_with_churn(sampler):
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(18)]
    *_, last = sampler(
        Stub(),
        80 * LATENTS,
        Scheduler.karras(18),
        noise=lambda step: drawn[17 - step],
        S_churn=40.0,
        S_min=0.05,
        S_max=50.0,
        S_noise=1.003,
    )
    close(last.x, -0.332331, 9.595333, [0.053379, -0.897176, -0.036684])


@pytest.mark.parametrize(
    'choices, steps, low, high, total, size, first',
    [
        (
            dict(solver='euler', discretization='vp', schedule='vp', scaling='vp'),
            64,
            0.000976,
            152.0,
            0.206538,
            10.224332,
            [0.496613, 0.494132, 0.486714],
        ),
        (
            dict(solver='heun', discretization='edm', schedule='vp', scaling='vp'),
            32,
            0.000976,
            152.0,
            0.208516,
            10.322294,
            [0.501371, 0.498867, 0.491377],
        ),
        (
            dict(solver='heun', discretization='ve', schedule='ve', scaling='none'),
            32,
            0.000976,
            152.0,
            0.167909,
            8.312088,
            [0.403732, 0.401715, 0.395685],
        ),
        (
            dict(solver='heun', discretization='iddpm', schedule='linear', scaling='none'),
            32,
            0.002,
            80.0,
            0.208741,
            10.333409,
            [0.501911, 0.499404, 0.491907],
        ),
        (
            dict(solver='heun', discretization='edm', schedule='linear', scaling='none', alpha=0.75),
            18,
            0.000976,
            152.0,
            0.212436,
            10.516339,
            [0.510797, 0.508245, 0.500615],
        ),
    ],
)
def test_ablations(choices, steps, low, high, total, size, first):
    sampler, levels = ablation_sampler(Stub(low, high), steps, **choices)
    *_, last = sampler(Stub(low, high), levels.sigmas[-1].item() * LATENTS, levels)
    close(last.x, total, size, first)


def edm_denoiser():
    return EDMDenoiser(fill(SongUNet(**TINY | dict(dropout=0.0)), keep=['resample_filter']))


def golden_start():
    return 80 * (1.2 * wave((2, 3, 16, 16), 0.83, 0.1)).double()


@pytest.mark.parametrize('sampler', [heun, _AblationSampler()])
def test_published_heun_of_a_network(sampler):
    *_, last = sampler(edm_denoiser(), golden_start(), Scheduler.karras(18))
    torch.testing.assert_close(last.x, torch.from_numpy(GOLDEN['heun18_edm']).double(), atol=1e-4, rtol=0)


def test_published_heun_with_churn_of_a_network():
    torch.manual_seed(0)
    drawn = [torch.randn(2, 3, 16, 16, dtype=torch.float64) for _ in range(10)]
    *_, last = heun(
        edm_denoiser(),
        golden_start(),
        Scheduler.karras(10),
        noise=lambda step: drawn[9 - step],
        S_churn=20.0,
        S_min=0.05,
        S_max=50.0,
        S_noise=1.003,
    )
    torch.testing.assert_close(
        last.x, torch.from_numpy(GOLDEN['heun10churn_edm']).double(), atol=2e-3, rtol=0
    )


# Rounding to a chain


def test_churn_lands_on_the_levels_of_a_chain():
    asked = []

    class Asked(IDDPMDenoiser):
        def predict(self, x, sigma, labels=None, check=True):
            asked.append(float(sigma))
            return x / (1 + sigma**2), None

    denoiser = Asked(torch.nn.Identity())
    for sampler in (heun, _AblationSampler()):
        list(sampler(denoiser, 80 * LATENTS, denoiser.steps(10), S_churn=4.0))
    levels = denoiser.u.double()
    assert max((levels / sigma - 1).abs().min().item() for sigma in asked) < 1e-6 and len(asked) == 38


@pytest.mark.parametrize(
    'name, steps, low, high',
    [
        ('vp', 64, math.sqrt(math.exp(9.95e-6 + 1e-4) - 1), 152.16698),
        ('ve', 40, 0.02, 100.0),
        ('iddpm', 30, 0.00642541, 79.7),
        ('edm', 18, 0.002, 80.0),
    ],
)
def test_published_ranges(name, steps, low, high):
    levels = discretize(Stub(), steps, name).sigmas
    assert len(levels) == steps and levels[0].item() == pytest.approx(low, rel=1e-5)
    assert levels[-1].item() == pytest.approx(high, rel=2e-2 if name == 'iddpm' else 1e-6)
    clamped = discretize(Stub(0.03, 10.0), steps, name).sigmas
    assert clamped[0] >= 0.03 and clamped[-1] <= 10 * (1 + 1e-9)


def test_published_18_steps():
    assert discretize(Stub(), 18).walk()[:-1] == pytest.approx(EDM_LEVELS, rel=1e-2, abs=6e-5)


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: ablation_sample(Stub(), (1, 1, 4, 4), solver='rk4'),
            "solver must be one of euler, heun, got 'rk4'",
        ),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), scaling='ve'), 'scaling must be one of none, vp'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), alpha=1.5), 'alpha must be a number > 0 and <= 1'),
        (
            lambda: ablation_sample(Stub(), (1, 1, 4, 4), discretization='ddpm'),
            'discretization must be one of',
        ),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), levels=dict(sigma_min=90.0)), '90'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), 0), 'n must be'),
        (lambda: _NoiseTrajectory(epsilon_s=1.0), 'epsilon_s'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), eta=1.0), 'has no option .eta'),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_misspelt_option():
    with pytest.raises(TypeError, match="'S_chrun': did you mean 'S_churn'"):
        ablation_sample(Stub(), (1, 1, 4, 4), S_chrun=1.0)
