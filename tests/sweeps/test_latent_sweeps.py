"""Latents in studies: images in, images out; with a rotation for a codec, what the pixels' denoiser gives."""

import pytest
import torch
from torch import nn

import difflow as df
from difflow import representations, sweeps
from difflow.sweeps import forward_backward_folder

HAAR = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def encode(images):
    blocks = nn.functional.pixel_unshuffle(images, 2).unflatten(1, (-1, 4))
    return torch.einsum('ij,bcjhw->bcihw', HAAR, blocks).flatten(1, 2)


def decode(latents):
    blocks = torch.einsum('ij,bcihw->bcjhw', HAAR, latents.unflatten(1, (-1, 4)))
    return nn.functional.pixel_shuffle(blocks.flatten(1, 2), 2)


IMAGES = 0.2 * df.normal((3, 1, 8, 8))
PIXELS = df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.04)
LATENT = df.LatentDenoiser(df.GaussianDenoiser(torch.zeros(4, 4, 4), 0.04), (encode, decode))
NOISE = {True: lambda s, k: df.normal((3, 1, 8, 8), 5, k, s), False: lambda s, k: encode(NOISE[True](s, k))}


@pytest.mark.parametrize('sampler', ['ddpm', 'dpmpp_2m'])
def test_a_sweep_of_a_rotation(sampler):
    theirs, ours = (
        df.sweep(denoiser, IMAGES, [0, 2, 5, 10], 10, sampler, noise=NOISE[denoiser is PIXELS])
        for denoiser in (PIXELS, LATENT)
    )
    assert ours.latents is None and torch.equal(ours.x0, IMAGES)
    torch.testing.assert_close(ours.images, theirs.images.clamp(-1, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.x0hat, theirs.x0hat.clamp(-1, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.noised_vp, theirs.noised_vp.clamp(-1, 1), rtol=0, atol=1e-5)
    assert ours.strip().size == theirs.strip().size
    back = df.forward_backward(LATENT, IMAGES, 5, 10, sampler, noise=NOISE[False])
    torch.testing.assert_close(back, ours.images[2], rtol=0, atol=1e-5)


def test_images_are_decoded_only_where_they_are_seen():
    calls = []

    def counted(latents):
        calls.append(len(latents))
        return decode(latents)

    latent = df.LatentDenoiser(LATENT.denoiser, (encode, counted), batch_size=64)
    assert latent.pixel_shape == (1, 8, 8)
    calls.clear()
    df.sweep(latent, IMAGES, [5, 10], 10)
    assert calls == [6, 6, 6]  # predictions, noised and returned images, once
    seen = []
    df.sweep(latent, IMAGES, [5, 10], 10, callback=lambda left, sweep: seen.append(sweep.images.shape))
    assert set(seen) == {(2, 3, 1, 8, 8)}
    left, states = next(sweeps.sweep_states(latent, IMAGES, [5], 10))
    assert states.images.shape == (1, 3, 4, 4, 4) and states.in_pixels().images.shape == (1, 3, 1, 8, 8)
    with pytest.raises(ValueError, match=r'images of \(4, 4, 4\), the model takes \(1, 8, 8\)'):
        df.sweep(latent, encode(IMAGES), [5], 10)


def test_a_folder(tmp_path):
    images = df.ImageSet.of(df.load_images('digits', max_images=3).tensor())
    forward_backward_folder(LATENT, images, tmp_path / 'a', [0, 4], 4)
    back = df.load_images(tmp_path / 'a')
    assert len(back) == 6 and back.image_shape == (1, 8, 8)
    none = torch.cat([back.tensor([i]) for i, name in enumerate(back.names) if '_t0000' in name])
    torch.testing.assert_close(none, images.tensor(), rtol=0, atol=1 / 127)


class Network(nn.Module):
    image_shape = (4, 4, 4)

    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, t):
        return self.middle(x)


def test_features_of_latents():
    torch.manual_seed(0)
    inner = df.EDMDenoiser(Network())
    latent = df.LatentDenoiser(inner, (encode, decode))
    ours = representations.unet_features(latent, IMAGES.clamp(-1, 1), [1.0], 'middle')
    given = inner.net.middle(
        (encode(IMAGES.clamp(-1, 1)) + df.normal((3, 4, 4, 4), 0, images=range(3))) / 1.25**0.5
    )
    torch.testing.assert_close(ours[:, 0], given.mean((2, 3)))
