"""Small networks and their answers, for the tests of this room."""

import torch

from difflow import SongUNet, UNet
from edm_networks import TINY
from golden import fill, wave

TELL = dict(image_size=32, num_head_channels=32, use_new_attention_order=False, schedule='linear')


def small_net(**options):
    small = dict(channel_mult=(1, 1), num_heads=2, attention_resolutions=(4,))
    return fill(UNet(8, 1, 32, 1, 1, **small | options))


def answer(denoiser, labels=None):
    x, sigma = wave((2, *denoiser.image_shape)), torch.tensor([0.3, 5.0])
    with torch.inference_mode():
        return denoiser(x, sigma, labels)


def tiny(kind=SongUNet, **options):
    return fill(kind(**TINY | options), keep=['resample_filter'])
