"""Distortions and mixed images"""

import pytest
import torch

from difflow.features import SSCDAugmentation
from difflow.features.sscd_augmentation import _gaussian_blur, _mixup


@pytest.mark.parametrize('shape', [(5, 1, 28, 28), (3, 3, 32, 24)])
def test_distortions_keep_shape_range_and_seed(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    once, again, other = SSCDAugmentation()(x, 1), SSCDAugmentation()(x, 1), SSCDAugmentation()(x, 2)
    assert once.shape == x.shape and once.min() >= -1 and once.max() <= 1
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_blur_is_a_gaussian():
    "The response to a point, away from the edges, is the density of a normal distribution"
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    d = torch.arange(41) - 20.0
    one = torch.exp(-(d**2) / (2 * 2.5**2)) / (2.5 * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(
        _gaussian_blur(point, torch.tensor([2.5]))[0, 0], one[:, None] * one, atol=1e-6, rtol=0
    )


def test_mixed_views_are_what_their_weights_say():
    views = torch.arange(8.0)[:, None, None, None].expand(8, 1, 20, 20)  # view i is the constant i
    mixed, weights = _mixup(views, torch.eye(8), share=1.0, seed=3)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), weights @ torch.arange(8.0), atol=1e-4, rtol=0)
    assert ((weights > 0).sum(1) <= 2).all()
