"""Wrong arguments of the scores: each is named."""

import math

import numpy as np
import pytest
import torch

from difflow import gl_score, m_score, rp_score
from difflow.reproducibility import nearest, rp_matrix, score

E = torch.eye(4)
NAN = float('nan')


@pytest.mark.parametrize('value', [NAN, math.inf, '0.6', None, True, 60, -1.1, [0.6]])
@pytest.mark.parametrize(
    'call',
    [
        lambda v: rp_score(E, E, v),
        lambda v: m_score(E, E, v),
        lambda v: gl_score(E, E, v),
        lambda v: rp_matrix({'a': E}, v),
        lambda v: score('M score', torch.ones(3), v),
        lambda v: score('M score', torch.ones(3), 0.5).at(v),
    ],
)
def test_thresholds(call, value):
    with pytest.raises(ValueError, match='threshold must be a number in -1..1'):
        call(value)


@pytest.mark.parametrize('k', [0, 5, 1.5, NAN, None, True, '1'])
def test_neighbours(k):
    with pytest.raises(ValueError, match='k must be'):
        nearest(E, E, k)


@pytest.mark.parametrize('spoilt', [NAN, math.inf])
@pytest.mark.parametrize(
    'call', [rp_score, m_score, gl_score, nearest, lambda a, b: rp_matrix({'a': a, 'b': b})]
)
def test_features_that_are_not_finite(call, spoilt):
    broken = E.clone()
    broken[2, 1] = spoilt
    for sets in ((broken, E), (E, broken)):
        with pytest.raises(ValueError, match='1 of 4 rows hold NaN or infinity, the first is row 2'):
            call(*sets)


@pytest.mark.parametrize(
    'name, similarities, words',
    [
        ('M score', torch.tensor([0.1, NAN]), r'similarities must be \(N,\) in -1..1'),
        ('M score', torch.tensor([0.1, 2.0]), 'similarities must be'),
        ('M score', torch.ones(0), 'similarities must be'),
        ('M score', torch.ones(2, 2), 'similarities must be'),
        ('gl score', torch.ones(2), 'name must be one of RP score, M score, GL score'),
    ],
)
def test_scores_of_what_are_no_similarities(name, similarities, words):
    with pytest.raises(ValueError, match=words):
        score(name, similarities, 0.5)


def test_numbers_of_numpy_are_numbers():
    assert rp_score(E, E, np.float32(0.5)) is not None and nearest(E, E, np.int64(2))[0].shape == (4, 2)
