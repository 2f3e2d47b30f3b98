"""The numerical rank against its definition."""

import math

import pytest
import torch
from small_denoisers import by_the_book

from difflow import GaussianDenoiser, jacobian_spectrum, normal, numerical_rank
from difflow.jacobians.ranks import _as_spectrum


@pytest.mark.parametrize('energy', [0.5, 0.9, 0.99, 0.999])
def test_rank_by_the_book(energy):
    for seed in range(20):
        s = normal((30,), seed).double().exp() ** (1 + seed % 3)
        assert int(numerical_rank(s, energy)) == by_the_book(s, energy)


def test_rank_of_the_published_curves():
    for equal, dim in ((6, 48), (12, 48), (7, 48), (14, 48)):
        assert int(numerical_rank(torch.cat([torch.ones(equal), torch.zeros(dim - equal)]))) == equal


def test_rank_of_nothing_and_of_many():
    assert numerical_rank(torch.zeros(2, 4)).rank.tolist() == [0, 0]
    rank = numerical_rank(torch.eye(3))
    assert rank.rank.tolist() == [1, 1, 1] and len(rank) == 3 and str(rank).startswith('1 of 3, ')
    with pytest.raises(ValueError, match='of 1 point, this is of 3'):
        int(rank)


def test_values_on_another_device_stay_there():
    spectrum = _as_spectrum(torch.ones(3, 5, device='meta'))
    assert {t.device.type for t in (spectrum.values, spectrum.tail, spectrum.missed, spectrum.error)} == {
        'meta'
    }


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: numerical_rank(torch.ones(3), 0.0), 'energy must be a number > 0 and < 1, got 0.0'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rounding_is_no_rank():
    "Of r directions and rounding in the others it counts r, at a share that would count all of the rounding."
    torch.manual_seed(0)
    for rank in (1, 5, 40):
        u, v = (torch.linalg.qr(torch.randn(64, 64))[0][:, :rank] for _ in range(2))
        matrix = (u * torch.linspace(1, 0.5, rank)) @ v.T  # in float32
        values = torch.linalg.svdvals(matrix)
        assert (values > 0).sum() > rank
        assert int(numerical_rank(values, energy=1 - 1e-15)) == rank


def test_an_absolute_floor():
    "Nothing at all is rank 0, also as it rounds; the scale of a spectrum does not matter above that."
    values = torch.linspace(1, 0.1, 10, dtype=torch.float64)
    ranks = [int(numerical_rank(scale * values)) for scale in (0, 1e-300, 1e-30, 1e-11, 1e-8, 1.0, 1e8)]
    assert ranks == [0, 0, 0, 0] + [int(numerical_rank(values))] * 3
    gaussian = GaussianDenoiser(torch.zeros(1, 2, 2), torch.tensor([1.0, 1, 1, 0]).reshape(1, 2, 2))
    noisiest = jacobian_spectrum(gaussian, torch.ones(1, 1, 2, 2), 2e4)  # of the cosine schedule
    assert int(numerical_rank(noisiest)) == 3


@pytest.mark.parametrize(
    'values, message',
    [
        ([math.nan, 1.0], 'finite and not negative, got nan'),
        ([math.inf, 1.0], 'finite and not negative, got inf'),
        ([1.0, -1e-3], 'finite and not negative, got -0.001'),
        ([], 'at least one|D > 0'),
        (torch.zeros(0, 3), r'\(0, 3\)'),
        (torch.zeros(3, 0), r'\(3, 0\)'),
    ],
)
def test_no_singular_values(values, message):
    with pytest.raises(ValueError, match=message):
        numerical_rank(torch.as_tensor(values))
