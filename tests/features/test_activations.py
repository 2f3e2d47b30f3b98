"""Statistics of layers against brute force and the published formulas"""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from difflow.features import ActivationStatistics, activation_statistics, export_statistics
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
    assert stored['args'] == argparse.Namespace(data='x') and stored['accuracy'] is None
    plain = activation_statistics(model, images)  # divided by the deviation
    same = pickle.loads(export_statistics(plain, tmp_path / 'plain.pk').read_bytes())
    np.testing.assert_array_equal(same['activations_var']['maps'], stored['activations_var']['maps'])


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_published_file_of_the_script_itself_is_read(protocol, tmp_path):
    "What it pickles: NumPy's arrays and numbers, and its arguments as a Namespace"
    rng = np.random.default_rng(0)
    shapes = {'maps': (1, 3, 1, 1), 'tokens': (1, 1, 4), 'head': (1, 1)}
    mean = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    square = {name: a**2 + rng.uniform(1, 2, a.shape).astype(np.float32) for name, a in mean.items()}
    content = dict(
        args=argparse.Namespace(classifier_name='tokens', num_samples=200),
        accuracy=82.5,
        accuracy_top5=np.float64(95.0),
        activations_mean=mean,
        activations_var=square,
        activations_size=dict.fromkeys(shapes, np.int64(60)),
    )
    file = tmp_path / 'act_stat_tokens.pk'
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    read = ActivationStatistics.load(file)
    assert (read.images, read.accuracy, read.accuracy_top5) == (200, 0.825, 0.95)
    for name in shapes:
        shift, scale = read.scaling()[name]  # as the published script divides
        np.testing.assert_allclose(shift, mean[name])
        np.testing.assert_allclose(scale, 1 / np.sqrt(square[name] + 1e-8), rtol=1e-6)


class Harm:
    def __reduce__(self):
        return os.system, ('touch harmed',)


@pytest.mark.parametrize(
    'content',
    [
        Harm(),
        dict(args=Harm()),
        dict(args=argparse.Namespace(), activations_mean={'a': np.array([{}], object)}),
        dict(args=argparse.Namespace(num_samples=3), accuracy=None),
        [1, 2],
    ],
)
def test_nothing_in_a_published_file_is_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'act_stat_x.pk').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='act_stat_x.pk: no statistics of the published script'):
        ActivationStatistics.load('act_stat_x.pk')
    assert not (tmp_path / 'harmed').exists()
