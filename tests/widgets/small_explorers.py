"""One explorer of each kind, quickly made, of digits: many levels, long names, the last level shown."""

import numpy as np
import torch
from torch import nn

from difflow import (
    CompareExplorer,
    ConcatMixer,
    Denoiser,
    DirectionExplorer,
    GaussianDenoiser,
    ImageSet,
    NeighbourExplorer,
    SingleTime,
    SweepExplorer,
    SyntheticExplorer,
    TrajectoryExplorer,
    TransformerMixer,
    load_images,
)
from difflow.widgets import Panel

DIGITS = load_images('mnist5k', split='test', max_images=50, seed=0)
SHAPED = GaussianDenoiser(DIGITS.tensor().mean(0), 0.25)
SMALL = dict(steps=25, sampler='ddim', step_reverse=25, background=False)
QUICK = dict(epochs=2, lrs=(1e-2,), seeds=1, hidden=8, batch_size=25)


class OfClasses(Denoiser):
    "The denoiser of classes that are Gaussian around their grey levels"

    image_shape, num_classes, null_class = (1, 28, 28), 3, True

    def denoise(self, x, sigma, labels):
        mean = 0.0 if labels is None else (labels / 2 - 0.5)[:, None, None, None]
        return mean + 0.2**2 / (0.2**2 + sigma**2) * (x - mean)


class Grey(nn.Module):
    "The classifier that chooses the nearest grey level"

    def forward(self, images):
        return -20 * (images.mean((1, 2, 3))[:, None] - torch.tensor([-0.5, 0.0, 0.5])).abs()


def panels(images, x0):
    "Two panels: what a classifier says of 25 classes, and curves of layers with long names"
    levels = np.linspace(1, 0, len(images)).tolist()
    layers = {f'stages.{k}.residual.last': levels for k in range(7)}
    return [
        Panel('class probability', {str(k): levels for k in range(10)}),
        Panel('cosine to the original, layer by layer', layers, 'lines'),
    ]


def sweeps():
    return SweepExplorer(SHAPED, DIGITS, panels=panels, **SMALL)


def compare():
    names = 'trained on one half', 'trained on the other half of all images'
    return CompareExplorer(dict.fromkeys(names, SHAPED), DIGITS, **SMALL)


def directions():
    strengths = (-12, -9, -6, -3, 0, 3, 6, 9, 12)
    options = dict(directions=3, steps=3, sigma=3.0, strengths=strengths, background=False)
    explorer = DirectionExplorer(SHAPED, **options)
    explorer.direction, explorer.strength = 2, 12.0
    return explorer


def neighbours():
    return NeighbourExplorer(DIGITS.tensor(range(30)), DIGITS, sample=29)


def synthetic():
    images = ImageSet(DIGITS.images, torch.arange(50) % 3, classes=['dark', 'an odd shade of grey', 'light'])
    options = dict(steps=3, steps_offered=(1, 3, 36), label=1, count=8, background=False)
    return SyntheticExplorer(OfClasses(), images, Grey(), **options)


def trajectory():
    times = np.linspace(0, 1, 9).tolist()
    images = ImageSet(DIGITS.images, labels := DIGITS.labels % 2)
    codes = torch.randn(50, 9, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None, None]
    readers = {kind.__name__: kind(**QUICK).fit(codes, labels) for kind in (ConcatMixer, TransformerMixer)}
    single = SingleTime(**QUICK).fit(codes, labels)
    return TrajectoryExplorer(images, codes, times, single, readers, t=1.0, image=49)


EXPLORERS = [sweeps, compare, directions, neighbours, synthetic, trajectory]
