"""Speciation and collapse of a set of images, against covariances written out and random energies."""

import numpy as np
import pytest
import torch

from difflow import OptimalDenoiser, normal


def spread(rows):
    return float(torch.linalg.eigvalsh(torch.cov(rows.double().T, correction=0))[-1].sqrt())


@pytest.mark.parametrize('shape', [(1, 3, 3), (3, 4, 5), (3, 20, 20)])  # the last one by products
def test_speciation_is_the_largest_spread(shape):
    images = normal((60, *shape), seeds=1) * torch.linspace(1, 2, shape[-1]) + 0.3
    labels = torch.arange(60) % 4 % 3  # a class twice as large as the others
    denoiser, rows = OptimalDenoiser(images, labels=labels), images.flatten(1).double()
    assert denoiser.speciation() == pytest.approx(spread(rows), rel=1e-6)
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])[labels]
    assert denoiser.speciation(between=True) == pytest.approx(spread(means), rel=1e-5, abs=1e-6)


def test_pixels_have_the_unit_of_the_denoiser():
    pixels = torch.randint(
        0, 256, (40, 1, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    as_floats = OptimalDenoiser(pixels.float() / 127.5 - 1)
    denoiser = OptimalDenoiser(pixels)
    assert denoiser.speciation() == pytest.approx(as_floats.speciation(), rel=1e-5)
    assert denoiser.collapse() == pytest.approx(as_floats.collapse(), rel=1e-3)


def test_two_kinds():
    m = normal((1, 1, 4, 4), seeds=3)
    pair = OptimalDenoiser(torch.cat([m, -m]), labels=torch.tensor([0, 1]))
    for between in (False, True):
        assert pair.speciation(between) == pytest.approx(float(m.norm()), rel=1e-6)


@pytest.mark.parametrize('n', [100, 1000])
@pytest.mark.parametrize('size', [8, 16])
def test_random_points_collapse_where_random_energies_do(n, size):
    theory = (n ** (2 / size**2) - 1) ** -0.5
    gaussian = normal((n, 1, size, size), seeds=5)
    sphere = gaussian / gaussian.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * size
    for points in (gaussian, sphere):
        level = OptimalDenoiser(points).collapse(n=1000)  # finite N and D: 1 to 4 % above
        assert level == pytest.approx(theory, rel=0.06)


def test_at_collapse_the_median_image_has_the_weight_of_two():
    images = normal((200, 1, 6, 6), seeds=2)
    sigma = OptimalDenoiser(images).collapse(n=200, seed=4)
    x = (images + sigma * normal(images.shape, 4)).double().flatten(1)
    energies = -torch.cdist(x, images.double().flatten(1)).square() / (2 * sigma**2)
    sizes = 1 / energies.softmax(1).square().sum(1)
    assert float(sizes.median()) == pytest.approx(2, abs=0.01)


def test_the_levels_scale_with_the_images_and_ignore_their_mean():
    images = normal((50, 1, 4, 4), seeds=2)
    one, other = OptimalDenoiser(images), OptimalDenoiser(3 * images + 7)
    assert other.speciation() == pytest.approx(3 * one.speciation(), rel=1e-4)
    assert other.collapse() == pytest.approx(3 * one.collapse(), rel=1e-3)


def test_twins_never_collapse():
    images = normal((10, 1, 4, 4), seeds=2)
    assert OptimalDenoiser(images.repeat(2, 1, 1, 1)).collapse() == 0
    assert OptimalDenoiser(torch.zeros(5, 1, 4, 4)).collapse() == 0
    assert OptimalDenoiser(torch.zeros(5, 1, 4, 4)).speciation() == 0
    assert np.isfinite(OptimalDenoiser(torch.cat([images, images[:2]])).collapse())


def test_bad_input_is_named():
    images = normal((5, 1, 4, 4), seeds=2)
    for message, call in {
        'collapse needs a set of at least 3 images, got 2': OptimalDenoiser(images[:2]).collapse,
        'between=True needs a denoiser with labels': lambda: OptimalDenoiser(images).speciation(between=True),
        'n must be an integer >= 1, got 0': lambda: OptimalDenoiser(images).collapse(n=0),
        'seed must be an integer': lambda: OptimalDenoiser(images).collapse(seed=-1),
        'between must be bool': lambda: OptimalDenoiser(images).speciation(between=1),
    }.items():
        with pytest.raises(ValueError) as error:
            call()
        assert message in str(error.value)
