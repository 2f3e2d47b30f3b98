"""Explorers of latents show images: those of the pixels' denoiser, where the codec is a rotation."""

import numpy as np
import torch
from counting import pixels

import difflow as df

CODEC = (lambda images: images.flatten(1)[:, :, None, None], lambda z: z.reshape(-1, 1, 8, 8))


def latent(inner=None):
    return df.LatentDenoiser(inner or df.GaussianDenoiser(torch.zeros(64, 1, 1), 0.04), CODEC)


def test_sweeps_side_by_side():
    images = df.load_images('digits', max_images=2)
    explorer = df.CompareExplorer(
        dict(pixels=df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.04), latents=latent()), images, steps=4
    ).wait()
    pictures = explorer.images
    assert pictures['latents'].shape == pictures['pixels'].shape == (5, 1, 8, 8)
    assert pixels(explorer._frames).shape == (10, 8, 8, 1) and explorer.static().width > 100
    torch.testing.assert_close(pictures['latents'][0], images.tensor([0])[0])


def test_directions():
    explorer = df.DirectionExplorer(latent(), sigmas=[1.0], directions=2, sigma=1.0, background=False)
    explorer.wait()
    count = len(explorer._choices['strengths'])
    assert explorer._choices['shape'] == [1, 8, 8] and pixels(explorer._state).shape == (1, 8, 8, 1)
    assert len(pixels(explorer._frames)) == 2 * count and len(pixels(explorer._vectors)) == 2
    assert np.ptp(pixels(explorer._vectors)) > 0 and explorer.static().width > 8


def test_samples_of_a_class():
    images = df.ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    inner = df.OptimalDenoiser(CODEC[0](images.tensor()), labels=images.labels)
    judge = lambda pictures: torch.stack([pictures.flatten(1).mean(1), torch.ones(len(pictures))], 1)
    explorer = df.SyntheticExplorer(latent(inner), images, judge, count=2, background=False).wait()
    assert explorer.static().width > 8
