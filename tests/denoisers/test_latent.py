"""Latents: a rotation of the pixels changes nothing; diffusers' auto-encoders; what passes through."""

import pytest
import torch
from torch import nn

import difflow as df
from difflow.runs import model_hash

HAAR = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def encode(images):
    blocks = nn.functional.pixel_unshuffle(images, 2).unflatten(1, (-1, 4))
    return torch.einsum('ij,bcjhw->bcihw', HAAR.to(images), blocks).flatten(1, 2)


def decode(latents):
    blocks = torch.einsum('ij,bcihw->bcjhw', HAAR.to(latents), latents.unflatten(1, (-1, 4)))
    return nn.functional.pixel_shuffle(blocks.flatten(1, 2), 2)


def pair():
    "The exact denoiser of small Gaussian images, and of the same in rotated latents"
    torch.manual_seed(0)
    mean, factor = 0.2 * torch.randn(1, 4, 4), 0.1 * torch.randn(16, 16).double()
    rotate = encode(torch.eye(16).reshape(16, 1, 4, 4)).flatten(1).double()  # rows: rotated unit images
    covariance = factor @ factor.T
    pixels = df.GaussianDenoiser(mean, covariance)
    inner = df.GaussianDenoiser(encode(mean[None])[0], rotate.T @ covariance @ rotate)
    return pixels, df.LatentDenoiser(inner, (encode, decode))


def test_a_rotation_changes_nothing():
    pixels, latent = pair()
    assert latent.image_shape == (4, 2, 2) and latent.pixel_shape == (1, 4, 4)
    noise = df.normal((6, 1, 4, 4))
    for sigma in (0.05, 1.0, 30.0):
        torch.testing.assert_close(latent(encode(sigma * noise), sigma), encode(pixels(sigma * noise, sigma)))
    for sampler in ('heun', 'ddim', 'dpmpp_2m'):
        theirs = df.sample(pixels, 80 * noise, sampler, progress=False).clamp(-1, 1)
        ours = df.sample(latent, encode(80 * noise), sampler, progress=False)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert df.sample(latent, 3, progress=False).shape == (3, 1, 4, 4)


def test_scale_and_shift():
    pixels, latent = pair()
    codec = (lambda images: encode(images) / 3 + 0.5, lambda z: decode(3 * (z - 0.5)))
    scaled = df.LatentDenoiser(latent.denoiser, codec, scale=3.0, shift=0.5, batch_size=2)
    images = 0.3 * df.normal((5, 1, 4, 4))
    torch.testing.assert_close(scaled.encode(images), encode(images))
    torch.testing.assert_close(scaled.decode(encode(images)), images.clamp(-1, 1))
    assert not scaled.decode(encode(images)).is_inference() and not scaled.encode(images).is_inference()


class Codec(nn.Module):
    "Counts its calls, and is in half precision where asked."

    def __init__(self):
        super().__init__()
        self.dropout, self.weight, self.sizes = nn.Dropout(0.5), nn.Parameter(torch.ones(())), []

    def encode(self, images):
        self.sizes.append((len(images), images.dtype))
        return self.dropout(encode(images) * self.weight)

    def decode(self, latents):
        self.sizes.append((len(latents), latents.dtype))
        return self.dropout(decode(latents / self.weight))


def test_a_module_is_part_of_it():
    _, latent = pair()
    codec = Codec().double()
    whole = df.LatentDenoiser(latent.denoiser, codec, batch_size=2).train()
    images = 0.3 * df.normal((5, 1, 4, 4))
    torch.testing.assert_close(whole.decode(whole.encode(images)), images.clamp(-1, 1))  # no dropout
    assert codec.sizes == [(n, torch.float64) for n in (2, 2, 1) * 2]
    before = model_hash(whole)
    with torch.no_grad():
        codec.weight.mul_(2)
    assert model_hash(whole) != before  # another codec, another run
    assert model_hash(df.LatentDenoiser(latent.denoiser, codec, scale=2.0)) != model_hash(whole)


def test_the_autoencoders_of_diffusers():
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    blocks = dict(down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2,
                  block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4)  # fmt: skip
    images = 0.5 * df.normal((3, 3, 8, 8)).clamp(-2, 2)
    inner = df.GaussianDenoiser(torch.zeros(4, 4, 4), 1.0)
    kl = diffusers.AutoencoderKL(**blocks, scaling_factor=0.3, shift_factor=0.1).eval()
    ours = df.LatentDenoiser(inner, kl)
    with torch.no_grad():
        z = (kl.encode(images).latent_dist.mode() - 0.1) * 0.3
        x = kl.decode(z / 0.3 + 0.1).sample.clamp(-1, 1)
    torch.testing.assert_close(ours.encode(images), z)
    torch.testing.assert_close(ours.decode(z), x)
    assert ours.pixel_shape == (3, 8, 8)
    vq = diffusers.VQModel(**blocks, num_vq_embeddings=16, scaling_factor=0.5).eval()
    ours = df.LatentDenoiser(inner, vq)
    with torch.no_grad():
        z = vq.encode(images).latents * 0.5
        x = vq.decode(z / 0.5).sample.clamp(-1, 1)
    torch.testing.assert_close(ours.encode(images), z)
    torch.testing.assert_close(ours.decode(z), x)


def test_save_says_why_not(tmp_path):
    _, latent = pair()
    with pytest.raises(ValueError, match='a LatentDenoiser is not saved; save .denoiser'):
        df.save(latent, tmp_path / 'x.safetensors')
    assert not list(tmp_path.iterdir())
