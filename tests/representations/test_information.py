"""Information beyond what the notebook shows: closed forms, bounds, how much is trained, bad input."""

import math

import numpy as np
import pytest
import torch

import difflow.representations.information as module
from difflow import mutual_information
from difflow.representations import (
    InformationEstimate,
    gaussian_information,
    ksg_information,
    mine_information,
)


def gaussians(n, d, rho, seed=0):
    a, b = np.random.default_rng(seed).normal(size=(2, n, d))
    return a, rho * a + math.sqrt(1 - rho**2) * b


def known(d, rho):
    return -d / 2 * math.log(1 - rho**2)


def test_half_of_the_pairs_and_one_batch(monkeypatch):
    "363 published trainings of 11 x 11 are 66 here, all in one call"
    calls = []

    def counting(x, y, **options):
        calls.append(x.shape)
        return [InformationEstimate(float(i), 0.0) for i in range(len(x))]

    monkeypatch.setattr(module, 'mine_information', counting)
    found = mutual_information(torch.randn(40, 11, 2), 'mine')
    assert calls == [torch.Size([66, 40, 2])] and 363 / 66 >= 5
    assert (found.nats == found.nats.T).all() and len(np.unique(found.nats)) == 66


def test_index_is_one_on_the_diagonal():
    rng = np.random.default_rng(0)
    codes = np.cumsum(rng.normal(size=(300, 4, 2)), 1)
    for estimator in ('ksg', 'gaussian'):
        index = mutual_information(codes, estimator).normalised
        assert np.diag(index) == pytest.approx(np.ones(4)) and (index[0, 1:-1] > index[0, 2:]).all()


X, Y = gaussians(64, 2, 0.5)
BROKEN = X.copy()
BROKEN[3, 1] = np.nan


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: gaussian_information(X, Y[:-1]), 'got 64 and 63'),
        (lambda: ksg_information(X[:9], Y[:9]), 'at least 16 pairs'),
        (lambda: ksg_information(BROKEN, Y), 'must be finite'),
        (lambda: ksg_information(X, Y, k=8), r'k must be an integer in 1..7, got 8'),
        (
            lambda: gaussian_information(np.ones((20, 6)), np.ones((20, 6))),
            '12 dimensions: they need more than 24 pairs, got 20',
        ),
        (lambda: mine_information(X, Y[:-1]), 'equal P and N'),
        (lambda: mine_information(X, Y, batch_size=65), 'batch_size must be an integer in 2..64'),
        (lambda: mine_information(X, Y, steps=5, batch_size=32), 'steps must be an integer >= 100'),
        (lambda: mutual_information(X[:, None], 'club'), "got 'club'"),
        (lambda: mutual_information(BROKEN[:, None]), 'the first is 3'),
        (lambda: mutual_information(X), r'shape \(N, T, D\)'),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
