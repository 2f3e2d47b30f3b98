"""The Wiener denoiser against the formula in float64, and against the Gaussian of the same moments."""

import pytest
import torch

from difflow import GaussianDenoiser, ImageSet, WienerDenoiser, load_images, normal
from difflow.exact.wiener import _principal
from difflow.jacobians import jacobian


def formula(y, x, sigma):
    "Return m + C (C + sigma^2)^-1 (x - m) for pixels (N, D), in float64"
    y = y.double()
    mean, covariance = y.mean(0), (y - y.mean(0)).T @ (y - y.mean(0)) / len(y)
    inverse = torch.linalg.inv(covariance + sigma**2 * torch.eye(y.shape[1], dtype=torch.float64))
    return (mean + (x.double().flatten(1) - mean) @ (covariance @ inverse).T).reshape(x.shape)


@pytest.mark.parametrize('count', [1, 2, 20, 63, 64, 65, 700])
@pytest.mark.parametrize('sigma', [0.02, 0.5, 20.0])
def test_the_formula_for_more_and_for_fewer_images_than_pixels(count, sigma):
    images = normal((count, 1, 8, 8), seeds=1).clamp(-1, 1)
    x = images[:1] + sigma * normal((4, 1, 8, 8), seeds=2)
    found = WienerDenoiser(images)(x, sigma)
    assert (found - formula(images.flatten(1), x, sigma)).abs().max() < 1e-5 * max(1, x.abs().max())


def test_equals_the_gaussian_with_the_moments_of_the_set():
    digits = load_images('digits')
    flat = digits.tensor().flatten(1).double()
    gaussian = GaussianDenoiser(flat.mean(0).float().reshape(1, 8, 8), flat.T.cov(correction=0))
    wiener = WienerDenoiser(digits)
    for sigma in (0.002, 0.1, 1.0, 80.0):
        x = digits.tensor()[:6] + sigma * normal((6, 1, 8, 8), seeds=3)
        assert (wiener(x, sigma) - gaussian(x, sigma)).abs().max() < 1e-5
    x = digits.tensor()[:2]
    assert (jacobian(wiener, x, 0.5) - jacobian(gaussian, x, 0.5)).abs().max() < 1e-5


def test_bytes_and_floats_are_one_set():
    pixels = load_images('digits').images[:40]
    x = normal((3, 1, 8, 8), seeds=4)
    a, b = WienerDenoiser(pixels), WienerDenoiser(ImageSet.of(pixels).tensor())
    assert (a(x, 0.7) - b(x, 0.7)).abs().max() < 1e-5


@pytest.mark.parametrize('count', [30, 900])
def test_components_are_orthonormal_and_their_variances_add_up(count):
    "Also over more images than are read at once"
    pixels = normal((count, 96), seeds=5)
    mean, values, basis = _principal(pixels)
    y = pixels.double()
    assert basis.shape == (96, min(count - 1, 96)) and (values > 0).all()
    assert (basis.T @ basis - torch.eye(len(values), dtype=torch.float64)).abs().max() < 1e-10
    assert abs(values.sum() - y.var(0, correction=0).sum()) < 1e-9 * values.sum()
    assert (mean - y.mean(0)).abs().max() < 1e-12
    away = (y - mean) - (y - mean) @ basis @ basis.T
    assert away.abs().max() < 1e-9


def test_gram_matrix_in_blocks():
    "1,100 images of 1,200 pixels: three blocks of images, the smaller matrix"
    pixels = normal((1100, 1200), seeds=6)
    _, values, _ = _principal(pixels)
    singular = torch.linalg.svdvals(pixels.double() - pixels.double().mean(0)).square() / 1100
    assert (values.flip(0) - singular[: len(values)]).abs().max() < 1e-10 * singular[0]


def test_samples_have_the_moments_of_the_set():
    images = load_images('digits')[:40]
    made = WienerDenoiser(images).draw(normal((40_000, 1, 8, 8), seeds=7)).flatten(1).double()
    flat = images.tensor().flatten(1).double()
    largest = torch.linalg.matrix_norm(flat.T.cov(correction=0), 2)
    assert torch.linalg.matrix_norm(made.T.cov() - flat.T.cov(correction=0), 2) < 0.05 * largest
    assert (made.mean(0) - flat.mean(0)).abs().max() < 5 * (largest / 40_000) ** 0.5
