"""The augmentation pipe against published numbers, and what it must never do."""

import math

import pytest
import torch

from difflow import EDMDenoiser
from difflow.training import Augmentation
from difflow.training.augmentation import _COLOURS, _EDM, _GEOMETRY, _PIXELS, _resample, _stretching, _turning
from edm_networks import ramp

ALL = dict.fromkeys([*_PIXELS, *_GEOMETRY, *_COLOURS], 1)


@pytest.mark.parametrize(
    'operations, image, expected',
    [
        (
            _EDM,
            (-34.372084, 1817.494859, [0.192558, -0.721236, -0.868448]),
            (9, 5.563050, 29.766065, [1.0, 0.0, 0.138173]),
        ),
        (
            ALL,
            (-573.969520, 1863.734402, [0.260319, 0.339186, 0.024525]),
            (19, 8.143343, 59.014973, [1.0, 0.0, 1.0]),
        ),
    ],
)
def test_published_pipes(operations, image, expected):
    pipe = Augmentation(1.0, operations)
    torch.manual_seed(7)
    x, labels = pipe(ramp(4, 3, 16, 16).float())
    assert x.sum().item() == pytest.approx(image[0], abs=1e-3) and x.abs().sum().item() == pytest.approx(
        image[1], abs=1e-3
    )
    assert x.flatten()[:3].tolist() == pytest.approx(image[2], abs=1e-5)
    assert labels.shape == (4, expected[0]) and pipe.dim == expected[0]
    assert labels.sum().item() == pytest.approx(
        expected[1], abs=1e-5
    ) and labels.abs().sum().item() == pytest.approx(expected[2], abs=1e-5)
    assert labels.flatten()[:3].tolist() == pytest.approx(expected[3], abs=1e-6)


def test_published_loss_with_augmentation():
    class Exact(EDMDenoiser):
        def predict(self, x, sigma, labels=None, check=True, augment_labels=None):
            return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2).float(), None

    denoiser, x0 = Exact(torch.nn.Identity()), ramp(4, 3, 8, 8).float()
    torch.manual_seed(123)
    sigma = (1.2 * torch.randn(4, 1, 1, 1).flatten().double() - 1.2).exp()
    moved, labels = Augmentation(0.12)(x0)
    loss = denoiser.loss(moved, sigma=sigma, noise=torch.randn(x0.shape), augment_labels=labels)
    assert loss.sum().item() * x0[0].numel() == pytest.approx(880.590533, rel=1e-5)


@pytest.mark.parametrize('channels, size', [(1, 28), (3, 32), (3, 5)])
def test_shapes_generators_and_identity(channels, size):
    x, pipe = torch.rand(3, channels, size, size) * 2 - 1, Augmentation(0.7, ALL)
    first, second = (pipe(x, torch.Generator().manual_seed(4)) for _ in range(2))
    assert first[0].shape == x.shape and all(torch.equal(a, b) for a, b in zip(first, second))
    assert first[0].isfinite().all()
    nothing, labels = Augmentation(0.0, ALL)(x)
    torch.testing.assert_close(nothing, x, atol=1e-5, rtol=0)
    assert not labels.any()


def test_an_image_does_not_depend_on_its_companions():
    x = torch.rand(6, 3, 16, 16)
    G = _turning(torch.linspace(-3, 3, 6)) @ _stretching(torch.linspace(0.3, 2, 6), torch.linspace(2, 0.3, 6))
    together = _resample(x, G, independent=True)
    for i in range(6):
        torch.testing.assert_close(
            _resample(x[i : i + 1], G[i : i + 1], independent=True)[0], together[i], atol=1e-5, rtol=0
        )


def test_grey_images_see_what_grey_colours_see():
    "Brightness, contrast and lightness of a grey picture are the same in one channel and in three."
    x, operations = torch.rand(4, 1, 8, 8), dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
    one, _ = Augmentation(1.0, operations)(x, torch.Generator().manual_seed(2))
    three, _ = Augmentation(1.0, operations)(x.expand(-1, 3, -1, -1), torch.Generator().manual_seed(2))
    torch.testing.assert_close(one.expand(-1, 3, -1, -1), three, atol=1e-5, rtol=0)


def test_oblong_images_and_refusals():
    assert Augmentation(1.0)(torch.rand(2, 3, 16, 24))[0].shape == (2, 3, 16, 24)
    with pytest.raises(ValueError, match='rotate_int needs square images'):
        Augmentation(1.0, ALL)(torch.rand(2, 3, 16, 24))
    with pytest.raises(ValueError, match='p must be a number in 0..1, got nan'):
        Augmentation(math.nan)
    with pytest.raises(ValueError, match="got 'flip'"):
        Augmentation(0.5, dict(flip=1))
    assert Augmentation(0.5, {}).dim == 0 and Augmentation(0.5, {})(torch.rand(2, 1, 4, 4))[1].shape == (2, 0)
