"""Samples of published seeds: the noise they mean, and how it is drawn."""

import math

import numpy as np
import pytest
import torch

from difflow import Denoiser, EDMDenoiser, GaussianDenoiser, Scheduler, SongUNet, euler, heun, sample
from difflow.noise import ImageStreams
from edm_networks import TINY
from golden import FIXTURES, fill

GOLDEN = np.load(FIXTURES / 'edm.npz')


class Stub(Denoiser):
    "D = x / (1 + 4 sigma^2), rounded to float32 as the reference does."

    def denoise(self, x, sigma, labels):
        return (x.double() / (1 + 4 * sigma**2)).float()


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
    for denoiser in (
        Stub(),
        EDMDenoiser(fill(SongUNet(**TINY | dict(dropout=0.0)), keep=['resample_filter'])),
    ):
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


def test_a_number_of_images_is_enough():
    "The shape is the denoiser's, and the same images come, whatever kind of integer says how many."
    gaussian = GaussianDenoiser(torch.zeros(1, 4, 4), 0.25)
    images = sample(gaussian, (16, 1, 4, 4), steps=2, progress=False)
    for count in (16, np.int64(16), torch.tensor(16), torch.zeros(16, 1, 4, 4).shape):
        assert torch.equal(sample(gaussian, count, steps=2, progress=False), images)
    for seeds in (np.int64(3), torch.tensor(3), [3] * 16, np.full(16, 3)):
        one = sample(gaussian, 16, steps=2, seeds=seeds, progress=False)
        assert one.shape == images.shape and not torch.equal(one, images)
    with pytest.raises(ValueError, match='the denoiser has no image_shape'):
        sample(Stub(), 16)
    for count in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f'n must be an integer >= 1, got {count}'):
            sample(gaussian, count)


def test_a_generator_is_no_seed():
    with pytest.raises(ValueError, match='not a torch.*Generator: noise is counter-based'):
        sample(GaussianDenoiser(torch.zeros(1, 4, 4), 0.25), 2, seeds=torch.Generator())


def test_wrong_values_are_named_before_the_denoiser_is_asked():
    "A batch of nothing, options of the sampler, states that are NaN: no call, and the cause by its name."

    class Untouched(GaussianDenoiser):
        def denoise(self, x, sigma, labels):
            raise AssertionError('asked')

    denoiser = Untouched(torch.zeros(1, 4, 4), 0.25)
    for wrong in (dict(batch_size=0), dict(S_churn=math.nan), dict(guidance=math.inf), dict(seeds=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sample(denoiser, 2, progress=False, **wrong)
    with pytest.raises(ValueError, match='x must be finite, but 32 of its 32 values'):
        sample(denoiser, torch.full((2, 1, 4, 4), math.nan))
