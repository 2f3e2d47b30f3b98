"""Profiles beyond what the notebook shows: a metric, the token's share, bad input."""

import numpy as np
import pytest
import torch

from difflow import TransformerMixer
from difflow.representations import attention_profile, jensen_shannon, mask_ablation, profile_distances


def test_divergence_of_profiles():
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.ones(6), 8)
    distances = profile_distances(profiles)
    assert (np.abs(np.diag(distances)) < 1e-12).all() and np.allclose(distances, distances.T)
    assert distances.min() > -1e-12 and distances.max() <= 1
    root = np.sqrt(distances.clip(0))  # its root is a metric
    assert all(
        root[i, j] <= root[i, k] + root[k, j] + 1e-9 for i in range(8) for j in range(8) for k in range(8)
    )
    assert jensen_shannon([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(1)


def test_profiles_leave_out_the_token():
    codes, labels = torch.randn(60, 4, 3), torch.arange(60) % 3
    mixer = TransformerMixer(epochs=1, lrs=(1e-3,), seeds=1, hidden=8, batch_size=20).fit(codes, labels)
    profile = attention_profile(mixer, codes)
    assert profile.shape == (1, 4) and profile.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match='not fitted'):
        attention_profile(TransformerMixer(), codes)


X = np.zeros((64, 3, 2))
Y = np.arange(64) % 2


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: jensen_shannon([0.5, 0.5], [1.0]), 'q must be 2 numbers'),
        (lambda: jensen_shannon([1.5, -0.5], [1, 0]), 'p must be'),
        (lambda: mask_ablation((X, Y), (X, Y), masks=(0, 7)), 'masks must be an integer in 0..4, got 7'),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
