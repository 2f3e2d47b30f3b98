"""Gaussians whose covariance comes in float32, with the rounding that it has there."""

import pytest
import torch

from difflow import GaussianDenoiser, intrinsic_dimension, normal


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('seed', range(4))
def test_a_plane_is_a_covariance_in_any_precision(dtype, seed):
    "The rounding of a projection leaves eigenvalues a little below 0"
    basis = torch.linalg.qr(normal((48, 5), seed).to(dtype)).Q
    plane = GaussianDenoiser(torch.zeros(3, 4, 4), basis @ basis.mT)
    x = plane.draw(normal((3, 3, 4, 4), seed + 9))
    assert (intrinsic_dimension(plane, x, 0.01) - 5).abs().max() < 0.01


def test_the_covariance_of_few_samples_is_one_in_float32():
    samples = normal((20, 300), 1)
    GaussianDenoiser(torch.zeros(3, 10, 10), torch.cov(samples.T))


@pytest.mark.parametrize('low', [-1e-3, -1.0])
def test_negative_eigenvalues_are_none(low):
    with pytest.raises(ValueError, match='eigenvalues >= 0'):
        GaussianDenoiser(torch.zeros(1, 1, 2), torch.diag(torch.tensor([1.0, low])))


def test_only_symmetric_matrices():
    with pytest.raises(ValueError, match='must be symmetric, off by 2'):
        GaussianDenoiser(torch.zeros(1, 1, 2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
