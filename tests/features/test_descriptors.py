"""Descriptors of a set: files that say whose they are, and runs that go on where they stopped"""

import json
import zipfile

import numpy as np
import pytest
import torch

from difflow import SSCD, load_images, sscd_features
from difflow.data import Preprocess, save_images
from difflow.features import load_features
from difflow.features.descriptors import _seeds_of, check_features


def noise(*shape, seed=0):
    "Random bytes"
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return SSCD('small', 16, widths=(8, 8, 16)).eval()


@pytest.fixture(scope='module')
def digits():
    return load_images('mnist5k', split='test', max_images=100)


def test_features_are_those_of_the_network(small, digits):
    with torch.no_grad():
        wanted = small(digits.tensor())
    for batch_size in (1, 7, 100, 1000):
        torch.testing.assert_close(sscd_features(digits, small, batch_size), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(digits.images, small), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(digits.tensor(), small), wanted, atol=1e-6, rtol=0)


def test_sources_agree(small, digits, tmp_path):
    save_images(digits, tmp_path / 'folder')
    with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as z:
        for file in sorted((tmp_path / 'folder').iterdir()):
            z.write(file, file.name)
    np.savez(tmp_path / 'set.npz', images=digits.images[:, 0].numpy())
    wanted = sscd_features(digits, small)
    for source in ('folder', 'set.zip', 'set.npz'):
        assert torch.equal(sscd_features(tmp_path / source, small), wanted)


def test_file_tells_where_it_comes_from(small, digits, tmp_path):
    wanted = sscd_features(digits, small, out=tmp_path / 'f.npz', seeds=range(100_000, 100_100))
    with np.load(tmp_path / 'f.npz') as data:  # what the published code reads
        assert data['features'].dtype == np.float32 and np.array_equal(data['features'], wanted.numpy())
    found = load_features(tmp_path / 'f.npz')
    assert found.names == digits.names and found.seeds.tolist() == list(range(100_000, 100_100))
    assert found.model == small.sha256 and found.preprocess == json.loads(json.dumps(vars(small.preprocess)))
    assert not (tmp_path / 'f.npz.parts').exists()


def test_finished_file_is_not_made_again(small, digits, tmp_path):
    calls = []
    sscd_features(digits, small, out=tmp_path / 'f.npz')
    again = sscd_features(digits, small, out=tmp_path / 'f.npz', callback=lambda *a: calls.append(a))
    assert calls == [] and torch.equal(again, sscd_features(digits, small))
    other = SSCD('small', 16, widths=(8, 8, 16))
    with pytest.raises(ValueError, match='is of another run: model'):
        sscd_features(digits, other, out=tmp_path / 'f.npz')
    with pytest.raises(ValueError, match=r'is of another run: images 100 .* -> 50 '):
        sscd_features(digits[:50], small, out=tmp_path / 'f.npz')


def test_shards_make_the_same_file(small, digits, tmp_path):
    sscd_features(digits, small, 16, out=tmp_path / 'one.npz')
    shards = [sscd_features(digits, small, 16, out=tmp_path / 'many.npz', shard=(i, 3)) for i in (2, 0, 1)]
    assert [s is None for s in shards] == [True, True, False]
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'many.npz').read_bytes()


def test_parts_of_another_run_are_not_mixed_in(small, digits, tmp_path):
    sscd_features(digits, small, 16, out=tmp_path / 'f.npz', shard=(0, 2))
    with pytest.raises(ValueError, match='is of another run: batch_size 16 -> 32'):
        sscd_features(digits, small, 32, out=tmp_path / 'f.npz', shard=(1, 2))
    changed = load_images('mnist5k', split='test', max_images=100)
    changed.images[0] += 1
    with pytest.raises(ValueError, match='is of another run: images'):
        sscd_features(changed, small, 16, out=tmp_path / 'f.npz')


def test_photographs_of_several_sizes_become_squares(tmp_path):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8), channels=3, preprocess=Preprocess('square-32')).eval()
    pictures = [noise(1, c, h, w, seed=h) for c, h, w in ((3, 40, 50), (1, 33, 20), (3, 64, 64))]
    for i, p in enumerate(pictures):
        save_images(p, tmp_path, [f'{i}.png'])
    with torch.no_grad():
        wanted = torch.cat([model(model.preprocess(p)) for p in pictures])
    torch.testing.assert_close(sscd_features(tmp_path, model), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(tmp_path, model, 2), wanted, atol=1e-6, rtol=0)
    model.preprocess = Preprocess('short-32')
    with pytest.raises(ValueError, match=r'0.png is \(3, 40, 50\)'):
        sscd_features(tmp_path, model)


def test_files_of_one_size_are_prepared_together(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8), channels=3, preprocess=Preprocess('square-32')).eval()
    pictures, sizes = noise(7, 3, 20, 20), []
    save_images(pictures, tmp_path, [f'{i}.png' for i in range(7)])
    whole = Preprocess.__call__
    monkeypatch.setattr(
        Preprocess, '__call__', lambda self, x, *rest: sizes.append(len(x)) or whole(self, x, *rest)
    )
    found = sscd_features(tmp_path, model, 3)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(found, sscd_features(pictures, model), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    'names, seeds', [(['000003.png', 'a/000001.jpg'], [3, 1]), (['x3.png'], None), (['3.png', 'b.png'], None)]
)
def test_seeds_are_read_off_names(names, seeds):
    found = _seeds_of(names)
    assert (found if found is None else found.tolist()) == seeds


@pytest.mark.parametrize(
    'arrays, message',
    [
        (dict(feature=np.eye(3)), r"has the keys \['feature'\]"),
        (dict(features=np.eye(3), extra=1), r"'extra'"),
        (dict(features=2 * np.eye(3)), '3 of 3 rows are not of length 1, row 0 has 2'),
        (dict(features=np.full((2, 3), np.nan)), '2 of 2 rows'),
        (dict(features=np.zeros((0, 3))), 'none of them 0'),
        (dict(features=np.eye(3).astype(int)), 'must be floats'),
        (dict(features=np.eye(3)[0]), r'must be floats \(N, dims\)'),
        (dict(features=np.eye(3), names=np.array(['a'])), '1 names for 3 features'),
        (dict(features=np.eye(3), seeds=np.arange(4)), '4 seeds for 3 features'),
    ],
)
def test_bad_feature_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'f.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        load_features(tmp_path / 'f.npz')


def test_pickled_or_damaged_feature_files_are_refused(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match='unreadable npz'):
        load_features(tmp_path / 'f.npz')
    (tmp_path / 'g.npz').write_bytes(b'PK nothing')
    with pytest.raises(ValueError, match='unreadable npz'):
        load_features(tmp_path / 'g.npz')


def test_features_by_the_study_are_read(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.eye(3, dtype=np.float32))
    found = load_features(tmp_path / 'f.npz')
    assert torch.equal(found.features, torch.eye(3)) and found[1:] == (None, None, None, None)
    assert torch.equal(check_features(np.eye(3)), torch.eye(3))


@pytest.mark.parametrize(
    'images, message',
    [
        (torch.zeros(0, 1, 28, 28), 'at least one image'),
        (torch.zeros(1, 1, 27, 28), 'sides of 28..32'),
        (torch.zeros(1, 1, 33, 33), 'sides of 28..32'),
        (torch.zeros(1, 3, 28, 28), 'C = 1'),
        (torch.full((1, 1, 28, 28), float('nan')), 'NaN'),
    ],
)
def test_bad_images_are_refused(small, images, message):
    with pytest.raises(ValueError, match=message):
        sscd_features(images, small)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=0), 'batch_size must be an integer >= 1, got 0'),
        (dict(shard=(2, 2), out='x'), r'shard\[0\] must be an integer in 0..1, got 2'),
        (dict(shard=(0, 2)), 'needs out='),
        (dict(seeds=[1]), 'seeds must be one for each of 100 images, got 1'),
    ],
)
def test_bad_options_are_refused(small, digits, options, message):
    with pytest.raises(ValueError, match=message):
        sscd_features(digits, small, **options)


def test_training_mode_does_not_leak_into_features(small, digits):
    wanted = sscd_features(digits, small)
    small.train()
    assert torch.equal(sscd_features(digits, small, 10), sscd_features(digits, small.eval(), 10))
    torch.testing.assert_close(sscd_features(digits, small), wanted)
