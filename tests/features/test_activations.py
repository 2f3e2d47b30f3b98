"""Statistics of layers against brute force and the published formulas"""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from difflow.features import activation_statistics, export_statistics
from difflow.features.activations import _balanced_choice, _Moments
from token_network import Tokens, kept


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tokens()


@pytest.fixture
def images():
    return torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_second_moment_is_the_published_statistic(model, images):
    "Sums in single precision over batches: counts B*H*W, B*T and B*K, then E[a^2] without the mean"
    found, _ = kept(model, images)
    statistics = activation_statistics(model, images, batch_size=7, second_moment=True)
    for name, dims in (('maps', (0, 2, 3)), ('tokens', (0, 1)), ('head', (0, 1))):
        sums, squares, count = 0.0, 0.0, 0
        for a in found[name].split(7):
            sums, squares = sums + a.sum(dims, keepdim=True), squares + (a**2).sum(dims, keepdim=True)
            count += a.numel() // sums.numel()
        moments, (shift, scale) = statistics.moments[name], statistics.scaling()[name]
        assert moments.count == count and moments.mean.dtype == torch.float64
        torch.testing.assert_close(shift, sums / count)
        torch.testing.assert_close(scale, 1 / torch.sqrt(squares / count + 1e-8))
        torch.testing.assert_close(
            moments.variance.float(), found[name].var(dims, correction=0, keepdim=True)
        )


@pytest.mark.parametrize('shape', [(40, 3, 4, 5), (40, 6, 3), (40, 7)])
def test_moments_do_not_depend_on_parts_or_order(shape):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.01 + 1e4
    keep = {4: 1, 3: 2, 2: None}[a.ndim]
    dims = [d for d in range(a.ndim) if d != keep]
    for _ in range(5):
        order = torch.randperm(40, generator=generator)
        parts = [_Moments.of(part) for part in a[order].split([1, 2, 17, 13, 7])]
        left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3].merge(parts[4]))
        torch.testing.assert_close(left.mean, a.mean(dims, keepdim=True), rtol=1e-14, atol=0)
        torch.testing.assert_close(left.variance, a.var(dims, correction=0, keepdim=True), rtol=1e-7, atol=0)


def test_channels_may_be_last(images):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    model(images)

    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    last = nn.Sequential(model[0], Last(), *model[1:])
    last.channel_dim = -1
    a, b = activation_statistics(model, images, '0'), activation_statistics(last, images, '1')
    torch.testing.assert_close(a.moments['0'].mean.flatten(), b.moments['1'].mean.flatten())


def test_choice_is_balanced_random_and_repeatable():
    labels = torch.arange(10).repeat_interleave(50)
    chosen = _balanced_choice(labels, 500, 100, seed=3)
    assert labels[chosen].bincount().tolist() == [10] * 10 and chosen == _balanced_choice(
        labels, 500, 100, seed=3
    )
    assert chosen != _balanced_choice(labels, 500, 100, seed=4) and chosen == sorted(set(chosen))
    assert _balanced_choice(None, 5, None) == list(range(5)) and len(_balanced_choice(None, 5, 2)) == 2
    with pytest.raises(ValueError, match='max_images must be an integer in 1..5, got 0'):
        _balanced_choice(None, 5, 0)


def test_published_statistics_file(model, images, tmp_path):
    statistics = activation_statistics(model, images, second_moment=True)
    stored = pickle.loads(
        export_statistics(statistics, tmp_path / 'act_stat_tokens.pk', data='x').read_bytes()
    )
    assert set(stored) == {
        'args',
        'accuracy',
        'accuracy_top5',
        'activations_mean',
        'activations_var',
        'activations_size',
    }
    a = kept(model, images)[0]['maps']
    np.testing.assert_allclose(
        stored['activations_var']['maps'], (a**2).mean((0, 2, 3), keepdim=True), rtol=1e-5
    )
