"""What changes in the layers of a classifier, against brute force and the published formulas"""

import gc
import pickle
import weakref

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from difflow import load_images
from difflow.data import save_images
from difflow.features import SmallClassifier, activation_statistics
from difflow.sweeps import (
    LayerChange,
    activation_change,
    change_files,
    export_change,
    join_changes,
    layer_change,
    pair_images,
)
from difflow.sweeps.layer_change import _chunks
from token_network import Tokens, kept


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tokens()


@pytest.fixture
def images():
    return torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


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
    change.plot(steps=10, draws=2)
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


@pytest.mark.parametrize('steps', [7, 250, 1000, 1500])
def test_every_level_is_read_from_its_name(steps):
    for r in range(steps + 1):
        tag = int(r * 1000 / float(steps)) if steps <= 1000 else r
        assert change_files._step_reverse_of(tag, steps) == r


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


def test_published_change_files(model, images, tmp_path):
    statistics = activation_statistics(model, images, second_moment=True)
    change = activation_change(model, images, images[None], statistics, [125])
    files = export_change(change, tmp_path, 'tokens')
    assert [f.name for f in files] == ['act_diff_tokens-t_125_250.pk', 'logits_tokens-t_125_250.pk']
    diff, logits = (pickle.loads(f.read_bytes()) for f in files)
    assert diff['tokens']['cosine'].shape == (23,) and set(diff['head']) == {'L2', 'L2_normalized', 'cosine'}
    assert logits['logits_start'].shape == logits['logits_sample'].shape == (23, 3)
