"""Edits along singular directions, where the answer is known."""

import pytest
import torch
from small_denoisers import gaussian, network

from difflow import euler, normal
from difflow.jacobians import (
    edit,
    singular_directions,
)
from difflow.jacobians.edits import _levels_below

X = torch.zeros(2, 1, 4, 4)


def test_edit_of_a_gaussian_is_linear():
    denoiser, _ = gaussian(16, torch.logspace(-1, 1, 16).double(), (1, 4, 4))
    x, sigma = 2 * normal((1, 1, 4, 4), seeds=3), 2.0
    found = singular_directions(denoiser, x, sigma, k=2)
    images = edit(denoiser, x, sigma, found.right[0, 0], [-1, 0, 1, 2], sampler=euler)
    step = images[2] - images[1]
    torch.testing.assert_close(images[3] - images[2], step, atol=1e-4, rtol=0)
    cosine = (step * found.right[0, 0]).sum() / step.norm()
    assert cosine > 0.999 and not images.is_inference()


def test_levels_below():
    denoiser = network()
    assert _levels_below(denoiser, 5.0, 1) == [5.0, 0.0] and _levels_below(denoiser, 0.001, 9) == [0.001, 0.0]
    levels = _levels_below(denoiser, 5.0, 9)
    assert len(levels) == 10 and levels[0] == pytest.approx(5) and levels[-1] == 0
