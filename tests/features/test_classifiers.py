"""Classifiers, the statistics of their layers and what changes in them: against brute force and the published formulas."""

import gc
import json
import pickle
import re
import socket
import sys
import weakref
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from difflow.data.canvas import save_images, to_float
from difflow.data.sets import load_images
from difflow.features.activations import (ActivationStatistics, Watch, _Moments, _balanced_choice,
                                          activation_statistics, export_statistics, layer_names)
from difflow.features.classifiers import (SmallClassifier, _Preprocess, _accuracy, _save_classifier, augment,
                                          embedded_classifiers, load_classifier, train_classifier)
from difflow.files import package_file
from difflow.sweeps import layer_change
from difflow.sweeps.layer_change import (LayerChange, _chunks, activation_change, export_change, join_changes,
                                         pair_images)

DIFFLOW = Path(sys.executable).parent / 'difflow'


class Tokens(nn.Module):
    "A network with maps, tokens and logits"

    def __init__(self):
        super().__init__()
        self.maps, self.tokens, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 6), nn.Linear(6, 3)
        self.layers = ['maps', 'tokens', 'head']

    def forward(self, images):
        tokens = self.tokens(self.maps(images).relu().flatten(2).transpose(1, 2))
        return self.head(tokens.tanh().mean(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tokens()


@pytest.fixture
def images():
    return torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def kept(model, images):
    "All activations of the watched layers"
    found = {}
    with Watch(model, model.layers, lambda name, a: found.update({name: a})) as watch:
        logits = watch(images)
    return found, logits['class']


# The shipped classifiers


def test_mnist5k_classifier_on_held_out_digits():
    classifier, images = load_classifier('mnist5k'), load_images('mnist5k', split='test')
    found = _accuracy(classifier, images)
    assert found == classifier.card['accuracy'] and found['digit'] >= 0.98
    assert not classifier.training and not any(p.requires_grad for p in classifier.parameters())
    x = images.tensor(slice(0, 4))
    assert torch.equal(classifier.heads['digit'](classifier.features(x)), classifier(x))


def test_colored_mnist_classifier_reads_three_factors():
    images = load_images('colored_mnist', split='test')
    classifier = load_classifier('colored_mnist')
    visible = images[images.labels[:, 1] != images.labels[:, 2]]
    found = _accuracy(classifier, visible)
    assert list(found) == ['digit', 'background', 'foreground']
    assert min(found['background'], found['foreground']) > 0.98 and found['digit'] > 0.93


def test_embedded_classifiers_are_small_and_no_denoisers(root):
    from difflow.checkpoints.load import embedded_models

    files = list((root / 'difflow/embedded/classifiers').iterdir())
    assert {f.stem for f in files} == set(embedded_classifiers()) and all(
        f.stat().st_size < 2e6 for f in files
    )
    assert not set(embedded_classifiers()) & set(embedded_models())


def test_files_keep_the_network(tmp_path):
    torch.manual_seed(1)
    before = SmallClassifier({'a': 3, 'b': 2}, (3, 8, 8), 8).eval()
    path = _save_classifier(before, tmp_path / 'mine.safetensors', {'seed': 1}, torch.float32)
    after, x = load_classifier(path), torch.zeros(2, 3, 8, 8)
    assert after.card == {'seed': 1} and after.config == before.config
    assert all(torch.equal(before(x)[head], after(x)[head]) for head in ('a', 'b'))
    (tmp_path / 'text.safetensors').write_text('nothing')
    with pytest.raises(ValueError, match='not a classifier of difflow'):
        load_classifier(tmp_path / 'text.safetensors')
    denoiser = package_file('embedded', 'digits.safetensors')
    with pytest.raises(ValueError, match='not a classifier of difflow'):
        load_classifier(denoiser)
    with pytest.raises(ValueError, match='not a file'):
        load_classifier(tmp_path / 'none.safetensors')
    assert [p.name for p in tmp_path.iterdir() if 'partial' in p.name] == []


def test_training_is_repeatable_and_leaves_its_model_alone():
    digits, start = (
        load_images('digits', split='train', max_images=64),
        SmallClassifier(image_shape=(1, 8, 8), width=8),
    )
    before = {k: v.clone() for k, v in start.state_dict().items()}
    one, two = (train_classifier(start, digits, steps=4, batch_size=16) for _ in range(2))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values()):
        assert torch.equal(a, b), name
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in one.state_dict().items())
    shifted = augment(digits.tensor(), 0, 0)
    assert not torch.equal(shifted, augment(digits.tensor(), 0, 1)) and shifted.shape == (64, 1, 8, 8)


# torchvision


def test_convnext_preset_is_the_published_one():
    with torch.device('meta'):
        classifier = load_classifier('convnext_base', weights=None)
    stages = [f'features.{i}.{j}' for i, n in ((1, 3), (3, 3), (5, 27), (7, 3)) for j in range(n)]
    expected = sorted(
        ['features.0', 'features.2', 'features.4', 'features.6', *stages],
        key=lambda n: [int(k) for k in n.split('.')[1:]],
    )
    names = layer_names(classifier)
    assert names == [*expected, 'classifier'] and len(names) == 41
    assert sum(p.numel() for p in classifier.parameters()) == 88_591_464
    shapes, classifier._forward_pre_hooks = [], {}
    see = lambda name, a: shapes.append(tuple(a.shape[1:]))
    with Watch(classifier, names, see) as watch:
        watch(torch.empty(1, 3, 224, 224, device='meta'))
    counts = [shapes.count(s) for s in ((128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7), (1000,))]
    assert counts == [4, 4, 28, 4, 1]


def test_torchvision_takes_our_images(tmp_path):
    classifier = load_classifier('squeezenet1_1', weights=None)
    with pytest.raises(ValueError, match='give layers='):
        layer_names(classifier)
    pixels = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    transforms, hooks = classifier.preprocess.transforms, classifier._forward_pre_hooks
    assert torch.equal(classifier.preprocess(to_float(pixels)), transforms(pixels))
    ours = classifier(to_float(pixels))
    classifier._forward_pre_hooks = {}
    assert ours.shape == (2, 1000) and torch.equal(classifier(transforms(pixels)), ours)
    classifier._forward_pre_hooks = hooks
    grey = to_float(pixels[:, :1])
    assert torch.equal(classifier.preprocess(grey), classifier.preprocess(grey.expand(-1, 3, -1, -1)))
    torch.save(classifier.state_dict(), tmp_path / 'weights.pth')
    again = load_classifier('squeezenet1_1', weights=tmp_path / 'weights.pth')
    assert torch.equal(again(to_float(pixels)), ours)
    with pytest.raises(ValueError, match='known are IMAGENET1K_V1'):
        load_classifier('squeezenet1_1', weights='V7')
    with pytest.raises(ValueError, match='unknown classifier'):
        load_classifier('convnext_huge')


def test_truncation_lowers_63_grey_levels():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    cut, whole = (_Preprocess(lambda x: x, truncate)(to_float(levels)) for truncate in (True, False))
    assert torch.equal(whole, levels.expand(-1, 3, -1, -1))
    assert (levels.int() - cut[:, :1].int()).unique().tolist() == [0, 1] and (
        cut[:, :1] != levels
    ).sum() == 63


def test_weights_out_of_reach_are_a_clear_error(monkeypatch):
    from urllib.error import URLError

    from torchvision.models import _api

    def offline(*arguments, **options):
        raise URLError('no route to host')

    monkeypatch.setattr(_api, 'load_state_dict_from_url', offline)
    with pytest.raises(ConnectionError, match='squeezenet1_1-.*no route to host.*weights='):
        load_classifier('squeezenet1_1')


# Statistics


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
    for seed in range(5):
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
    with pytest.raises(ValueError, match='max_images=0: allowed is 1..5'):
        _balanced_choice(None, 5, 0)


def test_hooks_go_and_modes_return(model, images):
    model.train()
    activation_statistics(model, images)
    with pytest.raises(ValueError, match=r'layer maps returns'):
        with Watch(nn.ModuleDict(), [], None):
            pass
        hooked = nn.Sequential()
        hooked.maps = nn.Identity()
        with Watch(hooked, ['maps'], lambda name, a: None) as watch:
            watch(torch.zeros(1, 1, 1, 1, 1))
    assert model.training and not any(m._forward_hooks for m in model.modules())
    model.layers.append('lost')
    model.lost = nn.Identity()
    with pytest.raises(ValueError, match='lost does not run'):
        activation_statistics(model, images)
    assert model.training and not any(m._forward_hooks for m in model.modules())


# Change


def reference(model, start, samples, statistics):
    "The published formulas, one pair of batches"
    (went, logits_start), (came, logits) = kept(model, start), kept(model, samples)
    found = {}
    for name, (mean, scale) in statistics.scaling().items():
        a, b = (((x[name] - mean) * scale).flatten(1).double() for x in (went, came))
        l2, norms = (b - a).square().sum(1), a.norm(dim=1) * b.norm(dim=1)
        found[name] = l2, l2 / norms, (a * b).sum(1) / norms
    return found, logits_start, logits


@pytest.mark.parametrize('second_moment', [False, True])
@pytest.mark.parametrize('batch_size', [3, 11, 1000])
def test_change_is_the_published_formulas(model, images, batch_size, second_moment):
    statistics = activation_statistics(model, images, second_moment=second_moment)
    returned = torch.stack([images, images.flip(0), (images + 0.3).clamp(-1, 1), 0.5 * images])
    change = activation_change(model, images, returned, statistics, [0, 5, 9, 10], batch_size=batch_size)
    for s, samples in enumerate(returned):
        found, logits_start, logits = reference(model, images, samples, statistics)
        for i, name in enumerate(change.layers):
            for measure, expected in zip((change.L2, change.L2_normalized, change.cosine), found[name]):
                torch.testing.assert_close(
                    torch.tensor(measure[s, i]).double(), expected, rtol=1e-4, atol=2e-6
                )
        np.testing.assert_allclose(change.logits['class'][s], logits, atol=1e-5)
        np.testing.assert_allclose(change.logits_start['class'], logits_start, atol=1e-5)
        other, _, _ = reference(model, images[change.partner], samples, statistics)
        for i, name in enumerate(change.layers):
            torch.testing.assert_close(
                torch.tensor(change.shuffled[s, i]).double(), other[name][2], rtol=0, atol=2e-6
            )
        assert (change.same_class()[s] == (logits.argmax(1) == logits_start.argmax(1)).numpy()).all()
    assert change.in_top5().all()  # there are three classes


def test_top5_counts_the_larger_logits():
    logits = np.random.default_rng(0).normal(size=(2, 30, 12)).astype(np.float32)
    start = np.random.default_rng(1).normal(size=(30, 12)).astype(np.float32)
    zero = np.zeros((2, 1, 30), np.float32)
    change = LayerChange(
        ['a'], [1, 2], list('x' * 30), zero, zero, zero, zero, np.zeros(30, int), {'c': start}, {'c': logits}
    )
    best = np.argsort(-logits, -1)[..., :5]
    assert (change.in_top5() == (best == start.argmax(1)[:, None]).any(-1)).all()


def test_error_bars_count_images_and_not_their_draws():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 20, 3)).astype(np.float32)
    logits = np.concatenate([logits, logits], 1)  # the second seed of each image gave the same
    start = np.tile(rng.normal(size=(20, 3)).astype(np.float32), (2, 1))
    cosine = np.tile(rng.random((4, 1, 20)).astype(np.float32), 2)
    change = LayerChange(
        ['a'],
        [0, 5, 9, 10],
        list('x' * 40),
        *[cosine] * 4,
        np.zeros(40, int),
        {'c': start},
        {'c': logits},
        np.array([0.0, 1.0, 10.0, np.inf]),
    )
    np.testing.assert_allclose(
        change.curve(draws=2)[1][:, 0], cosine[:, 0, :20].std(1, ddof=1) / 20**0.5, rtol=1e-6
    )
    change.plot(10, draws=2)
    share = change.same_class()[:, :20]
    figure = plt.gcf()
    bars = figure.axes[1].containers[0].lines[2][0].get_segments()  # of the class, too
    heights = [segment[1, 1] - segment[0, 1] for segment in bars]
    np.testing.assert_allclose(heights, 2 * share.std(1, ddof=1) / 20**0.5, rtol=1e-6)
    assert [axis.child_axes[0].get_xlabel() for axis in figure.axes] == ['SNR in dB'] * 2
    plt.close(figure)
    with pytest.raises(ValueError, match='must divide the 40 images, got 3'):
        change.plot(draws=3)
    plt.close('all')


def test_heads_have_classes_of_their_own(tmp_path):
    torch.manual_seed(0)
    model, x = SmallClassifier({'digit': 10, 'colour': 3}, (3, 8, 8), 8), torch.rand(6, 3, 8, 8) * 2 - 1
    change = activation_change(model, x, x[None], activation_statistics(model, x))
    assert change.same_class('colour').all() and change.logits['colour'].shape == (1, 6, 3)
    again = LayerChange.load(change.save(tmp_path / 'change.npz'))
    for name, value in vars(change).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
    assert list(again.logits) == ['digit', 'colour'] and again.names == change.names and again.sigmas is None
    with pytest.raises(ValueError, match='unreadable npz'):
        LayerChange.load(tmp_path / 'none.npz')
    with pytest.raises(ValueError, match="has no 'L2'|has no 'levels'"):
        LayerChange.load(activation_statistics(model, x).save(tmp_path / 'statistics.npz'))


def test_no_activations_are_kept(model, images, monkeypatch):
    "When a layer is compared, the whitened activations of all earlier layers are gone"
    alive, most = [], []

    def compare(rows, n, real=layer_change._compare):
        gc.collect()
        most.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(rows))
        return real(rows, n)

    monkeypatch.setattr(layer_change, '_compare', compare)
    activation_change(model, images, images[None], activation_statistics(model, images), batch_size=8)
    assert len(most) >= 9 and max(most) == 0


def test_one_start_serves_all_levels():
    "Of 10 levels and 100 images the network sees 1100 rows, and one more a batch"
    cut = list(_chunks(range(100), 10, 122))
    rows = [len(c.images) * (1 + len(c.levels)) + 1 for c in cut]
    assert sum(rows) == 1100 + len(cut) and len(cut) == 10 and max(rows) <= 122


@pytest.mark.parametrize('world', [2, 5, 30])
def test_ranks_do_not_matter(model, images, world):
    statistics = activation_statistics(model, images)
    returned = torch.stack([images.flip(0), images.roll(1, 0)])
    whole = activation_change(model, images, returned, statistics, batch_size=9)
    parts = [
        activation_change(model, images, returned, statistics, batch_size=9, rank=r, world=world)
        for r in range(world)
    ]
    both = join_changes(parts)
    for name in ('L2', 'cosine', 'shuffled', 'partner'):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(both.logits['class'], whole.logits['class'], atol=1e-5)


def test_one_image_has_no_stranger(model, images):
    change = activation_change(model, images[:1], images[None, :1], activation_statistics(model, images))
    assert np.isnan(change.shuffled).all() and (change.cosine == 1).all()


# Folders


@pytest.mark.parametrize('steps', [7, 250, 1000, 1500])
def test_every_level_is_read_from_its_name(steps):
    for r in range(steps + 1):
        tag = int(r * 1000 / float(steps)) if steps <= 1000 else r
        assert layer_change._level(tag, steps) == r


def test_pairs_by_stem(tmp_path):
    x = torch.linspace(-1, 1, 4)[:, None, None, None].expand(-1, 1, 4, 4)
    save_images(x, tmp_path / 'start', ['n_1', 'n_1_t0', 'b/n_2', 'x.y'])  # '.' sorts before digits and '_'
    names = ['n_1', 'n_1_t0', 'n_2', 'x']
    for r, level in ((25, 't_25_250_images'), (50, 'elsewhere')):
        save_images(x, tmp_path / 'back', [f'{level}/{name}_t{4 * r:04d}' for name in names])
    start, levels, sets = pair_images(load_images(tmp_path / 'start'), load_images(tmp_path / 'back'))
    assert levels == [25, 50] and len(start) == 4
    for images in sets:
        assert torch.equal(images.tensor(), start.tensor())
    assert pair_images(load_images(tmp_path / 'start'), load_images(tmp_path / 'back'), levels=[50])[1] == [
        50
    ]
    with pytest.raises(ValueError, match=r'step_reverse 75 is not there: found are \[25, 50\]'):
        pair_images(load_images(tmp_path / 'start'), load_images(tmp_path / 'back'), levels=[75])
    save_images(x[:1], tmp_path / 'back', ['twice/n_1_t0100'])
    with pytest.raises(ValueError, match='the same image'):
        pair_images(load_images(tmp_path / 'start'), load_images(tmp_path / 'back'))


def test_same_names_in_other_folders(tmp_path):
    x = torch.linspace(-1, 1, 4)[:, None, None, None].expand(-1, 1, 4, 4)
    save_images(x, tmp_path / 'start', ['a/1', 'a/2', 'b/1', 'b/2'])
    save_images(x, tmp_path / 'back', ['a/1_t0500', 'a/2_t0500', 'b/1_t0500', 'b/2_t0500'])
    start, _, (back,) = pair_images(load_images(tmp_path / 'start'), load_images(tmp_path / 'back'), 2)
    assert len(start) == 4 and torch.equal(start.tensor(), back.tensor())


def test_published_files(model, images, tmp_path):
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
    change = activation_change(model, images, images[None], statistics, [125])
    files = export_change(change, tmp_path, 'tokens')
    assert [f.name for f in files] == ['act_diff_tokens-t_125_250.pk', 'logits_tokens-t_125_250.pk']
    diff, logits = (pickle.loads(f.read_bytes()) for f in files)
    assert diff['tokens']['cosine'].shape == (23,) and set(diff['head']) == {'L2', 'L2_normalized', 'cosine'}
    assert logits['logits_start'].shape == logits['logits_sample'].shape == (23, 3)


# The commands


def test_commands_under_two_processes(run, tmp_path):
    "Statistics and evaluation by two processes equal those of one"
    digits = load_images('mnist5k', split='test', max_images=12)
    save_images(digits.tensor(), tmp_path / 'start', digits.names)
    for r in (10, 20):
        worse = (digits.tensor() * (1 - r / 40)).clamp(-1, 1)
        save_images(worse, tmp_path / 'back', [f'{name}_t{50 * r:04d}' for name in digits.names])
    lines = (
        'classifier-statistics --classifier_name mnist5k --data_dir start --num_samples 10',
        'evaluate-classifier --classifier_name mnist5k --starting_data_dir start --data_dir back '
        '--timestep_respacing 20 --time_series 10 20 --pickles published',
    )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    code = """if True:
        import sys, os, multiprocessing
        from difflow.cli.root import main
        def work(rank, line, port):
            os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            main(line.split())
        if __name__ == '__main__':
            import torch, difflow.sweeps.layer_change, difflow.features.classifiers
            fork = multiprocessing.get_context('fork')
            for i, line in enumerate(sys.argv[2:]):
                both = [fork.Process(target=work, args=(rank, line, int(sys.argv[1]) + i)) for rank in range(2)]
                for p in both: p.start()
                for p in both: p.join()
                assert [p.exitcode for p in both] == [0, 0]"""
    together = run(
        sys.executable,
        '-c',
        code,
        port,
        *(
            f'{line} --output two{i}.npz --statistics two0.npz' if i else f'{line} --output two{i}.npz'
            for i, line in enumerate(lines)
        ),
        cwd=tmp_path,
    )
    assert together.returncode == 0, together.stderr
    model, start = load_classifier('mnist5k'), load_images(tmp_path / 'start', 28, 1)
    alone, shared = (
        activation_statistics(model, start, max_images=10),
        ActivationStatistics.load(tmp_path / 'two0.npz'),
    )
    for name, moments in alone.moments.items():
        torch.testing.assert_close(shared.moments[name].mean, moments.mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(shared.moments[name].variance, moments.variance, rtol=1e-5, atol=1e-8)
    change, sets = (
        LayerChange.load(tmp_path / 'two1.npz'),
        pair_images(start, load_images(tmp_path / 'back', 28, 1), 20),
    )
    expected = activation_change(model, sets[0], sets[2], alone, sets[1])
    assert change.levels == [10, 20] and change.names == expected.names
    for name in ('cosine', 'shuffled'):
        np.testing.assert_allclose(getattr(change, name), getattr(expected, name), atol=1e-5)
    assert len(list((tmp_path / 'published').iterdir())) == 4
    assert re.search(r'12 images, same class at 10: \d\.\d\d, 20: \d\.\d\d', together.stdout)


def test_manifest_tells_steps_and_noise_levels(tmp_path):
    from difflow.cli.classifiers import _manifest_of

    assert _manifest_of(tmp_path) == (250, {}) and _manifest_of(tmp_path / 'none') == (250, {})
    rows = [
        dict(file='a', steps=20, step_reverse=5, sigma=0.5),
        dict(file='b', steps=20, step_reverse=20, sigma=None),
    ]
    (tmp_path / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert _manifest_of(tmp_path) == (20, {5: 0.5, 20: float('inf')})
