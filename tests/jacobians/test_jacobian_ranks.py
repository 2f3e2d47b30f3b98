"""The numerical rank against its definition."""

import pytest
import torch
from small_denoisers import by_the_book

from difflow import normal, numerical_rank
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
