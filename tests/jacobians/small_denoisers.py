"""A small network, a Gaussian whose Jacobian is known, and the rank by its definition."""

import math

import numpy as np
import torch
from torch import nn

from difflow import EDMDenoiser, GaussianDenoiser, UNet, normal


def network(size=4, channels=1, kind=EDMDenoiser, **options):
    "Return a small random network that depends on its input in every layer, attention included"
    torch.manual_seed(0)
    net = UNet(
        size,
        channels,
        32,
        channels,
        num_res_blocks=1,
        attention_resolutions=(size,),
        channel_mult=(1,),
        **options,
    )
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.6 / math.sqrt(p[0].numel()))
    return kind(net).eval()


def gaussian(dim, values, shape=None, seed=0):
    "Return the denoiser of a Gaussian with these eigenvalues in a random basis, and its closed Jacobian"
    q = torch.linalg.qr(normal((dim, dim), seed).double()).Q
    denoiser = GaussianDenoiser(torch.zeros(shape or (dim, 1, 1)), (q * values) @ q.T)
    return denoiser, lambda s: (q * (values / (values + s**2))) @ q.T


def by_the_book(s, energy):
    "Return the numerical rank by its definition"
    s = np.sort(np.asarray(s, float))[::-1]
    total = np.sqrt((s**2).sum())
    return next((r for r in range(1, len(s) + 1) if np.sqrt((s[:r] ** 2).sum()) > energy * total), 0)
