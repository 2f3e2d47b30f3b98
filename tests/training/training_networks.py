"""Small networks and settings for the tests of training."""

import torch
from torch import nn

from difflow import (
    DDPMDenoiser,
    EDMDenoiser,
    IDDPMDenoiser,
    Scheduler,
    SongUNet,
    UNet,
    VEDenoiser,
    VPDenoiser,
)


def song(augment_dim=9, dropout=0.1):
    "A DDPM++ of 8x8 images with a head that answers"
    torch.manual_seed(0)
    return new_song(augment_dim, dropout)


def new_song(augment_dim=9, dropout=0.1):
    "The same with other first weights"
    return SongUNet(
        8,
        1,
        1,
        augment_dim=augment_dim,
        model_channels=16,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        dropout=dropout,
    )


def unet(outputs=1):
    torch.manual_seed(0)
    return UNet(
        8,
        1,
        32,
        outputs,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 1),
        num_classes=10,
        null_class=True,
    )


DENOISERS = {
    'edm': lambda: EDMDenoiser(unet()),
    'vp': lambda: VPDenoiser(unet()),
    've': lambda: VEDenoiser(unet()),
    'iddpm': lambda: IDDPMDenoiser(unet()),
    'ddpm': lambda: DDPMDenoiser(unet(), Scheduler.cosine(50)),
    'learned variance': lambda: DDPMDenoiser(unet(2), Scheduler.linear(50), variance='learned_range'),
}


QUICK = dict(steps=12, batch_size=16, lr=3e-3, warmup=2, progress=False)


class Affine(nn.Module):
    "One factor and one shift a noise level, with dropout on the way"

    config = dict(image_size=2, in_channels=1)

    def __init__(self, dropout=0.2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 2))

    def forward(self, x, c_noise):
        factor, shift = self.layers(c_noise[:, None]).reshape(-1, 2, 1, 1, 1).unbind(1)
        return factor * x + shift


def affine(dropout=0.2):
    torch.manual_seed(0)
    return EDMDenoiser(Affine(dropout))
