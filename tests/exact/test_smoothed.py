"""The smoothed denoiser against the mean of optimal ones in float64, and its jitter."""

import pytest
import torch

from difflow import OptimalDenoiser, SmoothedDenoiser, load_images, normal
from difflow.jacobians import jacobian

SCALES = {'vp': lambda s: (1 + s * s) ** 0.5, 'flow': lambda s: 1 + s, 'data': lambda s: 1.0}


def by_hand(y, x, sigma, width, draws, seed):
    "Return the mean of the optimal answers at jittered inputs, every weight in float64"
    total = torch.zeros_like(x, dtype=torch.float64)
    for one in normal((draws, *x.shape[1:]), seed):
        z = x + torch.tensor(width).to(x) * one
        squares = (z.double().flatten(1)[:, None] - y).square().sum(2)
        total += ((-squares / (2 * sigma**2)).softmax(1) @ y).reshape(x.shape)
    return total / draws


@pytest.mark.parametrize('coordinates', SCALES)
@pytest.mark.parametrize('sigma', [0.05, 0.5, 3.0, 40.0])
def test_mean_over_jitter(coordinates, sigma):
    images = load_images('digits')[:200]
    y = images.images.flatten(1).double() / 127.5 - 1
    denoiser = SmoothedDenoiser(images, jitter=0.7, draws=5, seed=3, coordinates=coordinates)
    x = images.tensor()[:4] + sigma * normal((4, 1, 8, 8), seeds=1)
    width = 0.7 * SCALES[coordinates](sigma)
    assert abs(denoiser.scale(sigma).item() - width) < 1e-12
    assert (denoiser(x, sigma) - by_hand(y, x, sigma, width, 5, 3)).abs().max() < 1e-5


def test_each_image_of_a_batch_on_its_own():
    images = load_images('digits')[:100]
    denoiser, sigmas = SmoothedDenoiser(images, jitter=1.0), torch.tensor([0.1, 3.0, 0.5])
    x = images.tensor()[:3] + sigmas.reshape(-1, 1, 1, 1) * normal((3, 1, 8, 8), seeds=2)
    alone = torch.cat([denoiser(x[i : i + 1], sigmas[i].item()) for i in range(3)])
    assert (denoiser(x, sigmas) - alone).abs().max() < 1e-5
    assert (denoiser(x, sigmas) == denoiser(x, sigmas)).all()


def test_seed_decides_the_jitter_and_zero_is_the_optimal_denoiser():
    images = load_images('digits')[:100]
    x = images.tensor()[:3]
    optimal = OptimalDenoiser(images)(x, 0.3)
    assert (SmoothedDenoiser(images, jitter=0)(x, 0.3) == optimal).all()
    one, other = (SmoothedDenoiser(images, jitter=3.0, seed=seed)(x, 0.3) for seed in (0, 1))
    assert (one - other).abs().max() > 1e-3 and (one - optimal).abs().max() > 1e-3


def test_derivative_is_the_mean_of_derivatives():
    images = load_images('digits')[:100]
    denoiser, optimal = SmoothedDenoiser(images, jitter=1.0, draws=3), OptimalDenoiser(images)
    x, width = images.tensor()[:2], (1 + 0.64) ** 0.5
    wanted = sum(jacobian(optimal, x + width * one, 0.8) for one in normal((3, 1, 8, 8), 0)) / 3
    assert wanted.abs().max() > 0.01
    assert (jacobian(denoiser, x, 0.8) - wanted).abs().max() < 1e-4


def test_two_images_of_one_pixel_smoothed_without_end():
    "E tanh((x + s eps) / sigma^2), by the trapezoidal rule"
    pair = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    x = torch.linspace(-1, 1, 9).reshape(-1, 1, 1, 1)
    z = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / (2 * torch.pi) ** 0.5
    wanted = torch.trapezoid(torch.tanh((x.double().flatten()[:, None] + 0.5 * z) / 0.16) * density, z)
    found = SmoothedDenoiser(pair, jitter=0.5, draws=4000, coordinates='data')(x, 0.4)
    assert (found.flatten() - wanted).abs().max() < 4 / 4000**0.5
