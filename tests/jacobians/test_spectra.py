"""Spectra by products alone and by the matrix: values, ranks and vectors."""

import pytest
import torch
from small_denoisers import by_the_book, gaussian, network

from difflow import GaussianDenoiser, jacobian_spectrum, normal, numerical_rank
from difflow.jacobians import jacobian, singular_directions

X = torch.zeros(2, 1, 4, 4)


SPECTRA = {
    'flat': lambda i: (i <= 20).double() + 1e-4,
    'exponential': lambda i: (-i / 8).exp(),
    'power': lambda i: i**-1.5,
    'five': lambda i: torch.where(i <= 5, 0.5**i, 0.0 * i),
}


@pytest.mark.parametrize('name', SPECTRA)
@pytest.mark.parametrize('iterations', [0, 2])
def test_products_alone_bracket_the_rank(name, iterations):
    dim, sigma = 400, 1.0
    share = SPECTRA[name](torch.arange(1, dim + 1).double())
    share = 0.99 * share / share.max()
    denoiser, exact = gaussian(dim, share / (1 - share) * sigma**2)
    values = torch.linalg.svdvals(exact(sigma))
    true, x = by_the_book(values, 0.99), normal((2, dim, 1, 1))
    found = jacobian_spectrum(denoiser, x, sigma, k=40, iterations=iterations)
    rank = numerical_rank(found)
    assert found.products < dim and bool(rank.found.all())
    assert bool(((rank.low <= true) & (true <= rank.high)).all())
    assert (
        found.energy - values.square().sum()
    ).abs().max() < 0.02 * values.square().sum() + 3 * found.error.max()
    if iterations:
        torch.testing.assert_close(found.values[0, : true // 2], values[: true // 2], rtol=2e-3, atol=0)


def test_too_small_k_says_so():
    denoiser, _ = gaussian(300, torch.cat([torch.ones(100), torch.zeros(200)]).double())
    rank = numerical_rank(jacobian_spectrum(denoiser, normal((1, 300, 1, 1)), 0.5, k=20))
    assert not rank.found[0] and int(rank.low) > 20 and int(rank.high) == 300
    assert 'k = 20 is too small' in str(rank)
    with pytest.raises(ValueError, match='k = 20 is too small'):
        int(rank)


def test_known_tail_is_no_guess():
    "Where the matrix is cheaper it is formed, and a small k still gives the right energy"
    denoiser, exact = gaussian(20, torch.arange(1, 21).double())
    found = jacobian_spectrum(denoiser, normal((1, 20, 1, 1)), 1.0, k=5)
    assert found.values.shape == (1, 5) and found.products == 20 and found.missed.item() == 0
    torch.testing.assert_close(found.energy[0], exact(1.0).square().sum(), atol=1e-4, rtol=0)
    assert not numerical_rank(found).found[0]


def test_singular_vectors_of_an_asymmetric_jacobian():
    denoiser, x = network(), normal((2, 1, 4, 4), seeds=0)
    matrix = jacobian(denoiser, x, 0.8).double()
    found = singular_directions(denoiser, x, 0.8, k=3)
    left, right = found.left.flatten(2).double(), found.right.flatten(2).double()
    torch.testing.assert_close(right @ right.mT, torch.eye(3).double().expand(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((matrix @ right.mT).mT, found.values[..., None] * left, atol=1e-4, rtol=0)
    signs = right.gather(2, right.abs().argmax(2, keepdim=True))
    assert bool((signs > 0).all())


def test_vectors_by_products_are_those_of_the_matrix():
    values = torch.cat([torch.tensor([30.0, 20.0, 10.0, 5.0]), 1e-3 * torch.ones(296)]).double()
    denoiser, exact = gaussian(300, values)
    found = singular_directions(denoiser, normal((1, 300, 1, 1)), 3.0, k=4)
    right = torch.linalg.eigh(exact(3.0)).eigenvectors[:, -4:].flip(1).T
    cosines = (found.right[0].flatten(1).double() * right).sum(1).abs()
    assert found.products < 100 and cosines.min() > 1 - 1e-6


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: jacobian_spectrum(network(), X, 1.0, k=17), 'k must be an integer in 1..16, got 17'),
        (lambda: jacobian_spectrum(network(), X, 1.0, k=0), 'k must be an integer in 1..16, got 0'),
        (lambda: jacobian_spectrum(network(), X, 1.0, k=2, probes=1), 'probes must be'),
        (lambda: jacobian_spectrum(network(), X, 1.0, energy=1.0), 'energy must be a number > 0 and < 1'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_point_that_is_nan_is_named():
    "Not the denoiser is at fault, as two answers that differ by NaN would say."
    x = torch.full((1, 1, 4, 4), float('nan'))
    with pytest.raises(ValueError, match='x must be finite, but 16 of its 16 values are NaN or infinite'):
        jacobian_spectrum(GaussianDenoiser(torch.zeros(1, 4, 4), 1.0), x, 1.0)
