"""EDM's samplers, losses and ablations against the published numbers."""

import math

import numpy as np
import pytest
import torch

from difflow.denoisers.base import Denoiser
from difflow.denoisers.preconditioned import EDMDenoiser, IDDPMDenoiser
from difflow.networks.song_unet import SongUNet
from difflow.noise import ImageStreams
from difflow.samplers.ablation import (
    AblationSampler,
    _NoiseTrajectory,
    ablation_sample,
    ablation_sampler,
    discretize,
)
from difflow.samplers.steps import euler, heun, sample
from difflow.schedulers.scheduler import Scheduler
from edm_networks import TINY, ramp
from golden import FIXTURES, fill, wave

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


@pytest.mark.parametrize('sampler', [heun, AblationSampler()])
def test_18_steps(sampler):
    *_, last = sampler(Stub(), 80 * LATENTS, Scheduler.karras(18))
    close(last.x, 0.219435, 10.862798, [0.527625, 0.524989, 0.517107])


@pytest.mark.parametrize('sampler', [heun, AblationSampler()])
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


@pytest.mark.parametrize('sampler', [heun, AblationSampler()])
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


# Seeds: one noise for every model


def test_published_noise_of_seeds():
    streams = ImageStreams([0, 1, 100000]).normal((3, 4, 4))
    assert torch.equal(streams, torch.from_numpy(GOLDEN['stacked_noise']))


@pytest.mark.parametrize('noise', ['edm', 'cuda'], ids=['cpu-generator', 'gpu-generator'])
def test_sample_is_the_walk_from_its_seeds_noise(noise):
    "By hand: latents, then float64 noise at every step, also where churn is off."
    seeds, churn = range(100_000, 100_005), dict(S_churn=20.0, S_min=0.5, S_max=50.0)
    streams = ImageStreams(seeds, noise)
    x = 80 * streams.normal((1, 4, 4)).double()
    drawn = [streams.normal((1, 4, 4), torch.float64) for _ in range(12)]
    *_, last = heun(Stub(), x, Scheduler.karras(12), noise=lambda step: drawn[11 - step], **churn)
    for batch_size in (2, 64):
        found = sample(
            Stub(),
            (5, 1, 4, 4),
            steps=12,
            seeds=seeds,
            noise=noise,
            batch_size=batch_size,
            progress=False,
            **churn,
        )
        torch.testing.assert_close(found, last.x.float(), atol=1e-6, rtol=0)
    consecutive = sample(Stub(), (5, 1, 4, 4), steps=12, seeds=100_000, noise=noise, progress=False, **churn)
    assert torch.equal(found, consecutive)


class Classy(Stub):
    "Answer with the class, as a grey level."

    num_classes = 10

    def denoise(self, x, sigma, labels):
        return torch.ones_like(x) * labels[:, None, None, None] / 10


def test_classes_are_drawn_after_the_latent_as_published():
    generator = torch.Generator().manual_seed(77)
    torch.randn(1, 4, 4, generator=generator)
    label = torch.randint(10, (), generator=generator).item()
    found = sample(Classy(), (2, 1, 4, 4), seeds=[3, 77], noise='edm', progress=False)
    assert found[1].mean().item() == pytest.approx(label / 10, abs=1e-6)
    given = sample(Classy(), (2, 1, 4, 4), seeds=[3, 77], noise='edm', labels=4, progress=False)
    assert given.mean((1, 2, 3)).tolist() == pytest.approx([0.4, 0.4])
    with pytest.raises(ValueError, match='labels are missing'):
        sample(Classy(), (2, 1, 4, 4), progress=False)


def test_same_noise_for_every_model():
    starts = []
    for denoiser in (Stub(), edm_denoiser()):
        shape = denoiser.image_shape or (3, 16, 16)
        sample(
            denoiser,
            (2, *shape),
            euler,
            2,
            [5, 6],
            noise='cuda',
            progress=False,
            callback=lambda i, state: (
                starts.append(state.x + (80 - state.sigma) * (state.x - state.x0hat) / state.sigma)
                if state.step == 1
                else None
            ),
        )
    torch.testing.assert_close(starts[0], starts[1], atol=1e-3, rtol=1e-5)


# Rounding to a chain


def test_churn_lands_on_the_levels_of_a_chain():
    asked = []

    class Asked(IDDPMDenoiser):
        def predict(self, x, sigma, labels=None, check=True):
            asked.append(float(sigma))
            return x / (1 + sigma**2), None

    denoiser = Asked(torch.nn.Identity())
    for sampler in (heun, AblationSampler()):
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
    printed = [
        80,
        57.586,
        40.786,
        28.375,
        19.353,
        12.910,
        8.4009,
        5.3152,
        3.2568,
        1.9233,
        1.0882,
        0.5853,
        0.2964,
        0.1395,
        0.0599,
        0.0229,
        0.0075,
        0.002,
    ]
    assert discretize(Stub(), 18).walk()[:-1] == pytest.approx(printed, rel=1e-2, abs=6e-5)


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: ablation_sample(Stub(), (1, 1, 4, 4), solver='rk4'),
            "solver must be euler or heun, got 'rk4'",
        ),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), scaling='ve'), 'scaling must be one of none, vp'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), alpha=1.5), 'alpha must be in'),
        (
            lambda: ablation_sample(Stub(), (1, 1, 4, 4), discretization='ddpm'),
            'discretization must be one of',
        ),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), levels=dict(sigma_min=90.0)), '90'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), 0), 'n must be'),
        (lambda: _NoiseTrajectory(epsilon_s=1.0), 'epsilon_s'),
        (lambda: ablation_sample(Stub(), (1, 1, 4, 4), S_chrun=1.0), 'S_chrun'),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
