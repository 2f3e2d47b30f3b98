"""Scores against enumeration, and sets that do not belong together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from difflow import gl_score, m_score, rp_score
from difflow.features import Features
from difflow.reproducibility import Score, nearest, rp_matrix, scores


def features(count, dims=16, seed=0):
    return F.normalize(torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)), dim=1)


def all_similarities(a, b):
    return (a.double()[:, None] * b.double()[None]).sum(-1)


@pytest.mark.parametrize('rows, columns', [(2048, 4096), (7, 13), (1, 1), (50, 5)])
@pytest.mark.parametrize('k', [1, 4])
def test_nearest_is_that_of_enumeration_whatever_the_blocks(k, rows, columns, monkeypatch):
    monkeypatch.setattr(scores, '_QUERIES', rows)
    monkeypatch.setattr(scores, '_REFERENCES', columns)
    a, b = features(60, seed=1), features(91, seed=2)
    similarities, indices = nearest(a, b, k)
    expected = all_similarities(a, b).topk(k)
    assert torch.equal(indices, expected.indices) and similarities.shape == (60, k)
    torch.testing.assert_close(similarities, expected.values.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize('threshold', [-1.0, 0.0, 0.3, 0.6, 0.95, 1.0])
def test_scores_are_those_of_enumeration(threshold):
    a, b = features(200, seed=1), features(200, seed=2)
    b[:40] = F.normalize(a[:40] + 0.1 * b[:40], dim=1)
    pairs = all_similarities(a, b)
    assert rp_score(a, b, threshold).value == (pairs.diagonal() > threshold).double().mean()
    memorised, new = m_score(a, b, threshold), gl_score(a, b, threshold)
    assert memorised.value == (pairs.amax(1) > threshold).double().mean()
    assert new.value == pytest.approx(1 - memorised.value) and torch.equal(new.indices, memorised.indices)
    assert (
        torch.equal(memorised.indices, pairs.argmax(1))
        and memorised.copies.double().mean() == memorised.value
    )
    assert (memorised.name, new.name) == ('M score', 'GL score')


def test_published_names_are_not_confused():
    "Copies of training images: memorised, so M is 1 and GL is 0"
    train = features(50)
    assert (m_score(train[:20], train).value, gl_score(train[:20], train).value) == (1.0, 0.0)
    assert torch.equal(m_score(train[:20], train).indices, torch.arange(20))
    assert rp_score(train, train).value == 1


def test_a_threshold_is_to_be_exceeded():
    "A similarity of the threshold itself is none above it"
    e = torch.eye(2)
    a, b = e[:1], torch.tensor([[0.6, 0.8]])
    assert rp_score(a, b, 0.6).value == 0 and rp_score(a, b, 0.5999).value == 1


def test_rp_compares_row_by_row():
    a = features(30)
    assert rp_score(a, a.roll(1, 0), 0.99).value == 0 and m_score(a, a.roll(1, 0), 0.99).value == 1


def test_matrix_of_models():
    sets = {'a': features(40, seed=1), 'b': features(40, seed=2), 'c': features(40, seed=1)}
    found = rp_matrix(sets, 0.2)
    assert torch.equal(found, found.T) and (found.diagonal() == 1).all() and found[0, 2] == 1
    assert found[0, 1] == rp_score(sets['a'], sets['b'], 0.2).value


def test_other_thresholds_need_no_new_search():
    a, b = features(100, seed=1), features(300, seed=2)
    for score in (m_score, gl_score):
        again, anew = score(a, b, 0.5).at(0.7), score(a, b, 0.7)
        assert (again.value, again.interval, again.threshold) == (anew.value, anew.interval, 0.7)


def test_score_as_text_and_number():
    score = rp_score(features(10), features(10))
    assert float(score) == 1 and str(score).startswith(
        'RP score 1.0000 (0.6915..1.0000), 10 samples, threshold 0.6'
    )
    assert isinstance(score, Score)


# What goes in


def test_arrays_files_and_images(tmp_path):
    f = features(12)
    np.savez(tmp_path / 'plain.npz', features=f.numpy())
    np.savez(
        tmp_path / 'seeds.npz',
        features=f.numpy(),
        seeds=np.arange(12),
        names=np.array([f'{i}' for i in range(12)]),
        model='x',
    )
    for source in (
        f,
        f.numpy(),
        f.double(),
        Features(f),
        tmp_path / 'plain.npz',
        str(tmp_path / 'seeds.npz'),
    ):
        assert rp_score(source, f).value == 1 and m_score(source, f).value == 1
    images = torch.rand(12, 1, 4, 4)
    assert rp_score(images, images, extract=lambda x: F.normalize(x.flatten(1), dim=1)).value == 1


def test_sets_that_do_not_belong_together(tmp_path):
    f = features(10)
    labelled = Features(f, seeds=torch.arange(10), model='a' * 64, preprocess={'resize': 'square-320'})
    np.savez(tmp_path / 'other.npz', features=f.numpy(), labels=np.arange(10))
    for make, words in (
        (lambda: rp_score(f, f[:9]), '10 and 9 samples'),
        (lambda: rp_score(f, features(10, 8)), '16 and 8 dimensions'),
        (lambda: m_score(f, features(10, 8)), '16 and 8 dimensions'),
        (
            lambda: rp_score(labelled, labelled._replace(seeds=torch.arange(10).flip(0))),
            '10 of 10 seeds differ, first in row 0: 0 and 9',
        ),
        (lambda: m_score(labelled, labelled._replace(model='b' * 64)), 'different descriptors: model'),
        (
            lambda: rp_score(labelled, labelled._replace(preprocess={'resize': 'short-288'})),
            'different descriptors: preprocess',
        ),
        (lambda: rp_score(f, 1.01 * f), '10 of 10 rows are not of length 1'),
        (lambda: m_score(f[:0], f), 'none of them 0'),
        (lambda: m_score(f, f[:0]), 'none of them 0'),
        (lambda: m_score(torch.rand(3, 1, 8, 8), f), 'pass extract='),
        (lambda: rp_score(f, torch.full((10, 16), float('nan'))), 'b: 10 of 10 rows hold NaN'),
        (lambda: rp_score(f, f, 1.5), r'threshold must be a number in -1..1, got 1.5'),
        (lambda: nearest(f, f, 11), 'k must be an integer in 1..10, got 11'),
        (lambda: rp_score(f, str(tmp_path / 'other.npz')), "keys .'features', 'labels'."),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_what_is_not_known_is_not_checked():
    f = features(10)
    labelled = Features(f, seeds=torch.arange(10), model='a' * 64)
    assert (
        rp_score(labelled, f).value
        == rp_score(f, labelled).value
        == rp_score(labelled, Features(f, seeds=torch.arange(10))).value
        == 1
    )


def test_features_on_disk_give_the_scores_of_those_in_memory(tmp_path):
    samples, train = features(5000, 24), features(9000, 24, 1)
    samples[:40] = train[3000:3040]
    for name, rows in (('samples', samples), ('train', train)):
        np.save(tmp_path / f'{name}.npy', rows.numpy())
    disk = [tmp_path / f'{name}.npy' for name in ('samples', 'train')]
    for ours, theirs in (
        (rp_score(disk[0], disk[0]), rp_score(samples, samples)),
        (m_score(*disk), m_score(samples, train)),
        (gl_score(*disk), gl_score(samples, train)),
    ):
        assert ours.value == theirs.value and torch.equal(ours.similarities, theirs.similarities)
    assert float(m_score(*disk)) >= 40 / 5000
    np.save(tmp_path / 'long.npy', 2 * samples.numpy())
    with pytest.raises(ValueError, match='5000 of 5000 rows are not of length 1'):
        m_score(tmp_path / 'long.npy', disk[1])
    np.save(tmp_path / 'objects.npy', np.array([None]))
    with pytest.raises(ValueError, match=r'objects\.npy: unreadable npy'):
        m_score(tmp_path / 'objects.npy', disk[1])
