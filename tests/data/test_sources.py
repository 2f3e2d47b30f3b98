"""Folders, zips, npz files and torchvision sets: labels, layouts, faults."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from image_files import edm_zip, encode
from PIL import Image
from torch.utils.data import DataLoader

from difflow import load_images
from difflow.data import save_images


@pytest.mark.parametrize('name', ['nosuch', 'nosuch.zip', 'a/b.npz', '', 'MNIST5K'])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match='unknown image set') as e:
        load_images(name)
    for known in ('digits', 'mnist5k', 'colored_mnist', 'folder', 'CIFAR10', 'CelebA'):
        assert known in str(e.value)


def test_options_of_torchvision_are_refused_elsewhere(flat):
    with pytest.raises(ValueError, match='takes no root=, download='):
        load_images(flat, root='x', download=True)


def test_formats_and_upper_case_and_hidden_files(tmp_path, pixels):
    endings = [('.PNG', 'PNG'), ('.JPEG', 'JPEG'), ('.bmp', 'BMP'), ('.webp', 'WEBP')]
    for i, (suffix, format) in enumerate(endings):
        (tmp_path / f'{i}{suffix}').write_bytes(encode(pixels[i], format))
    (tmp_path / '.0.png.1.partial').write_bytes(b'half')
    (tmp_path / '._1.png').write_bytes(b'finder')
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / '.ipynb_checkpoints').mkdir()
    (tmp_path / '.ipynb_checkpoints' / '9.png').write_bytes(encode(pixels[5], 'PNG'))
    s = load_images(tmp_path)
    assert s.names == ['0.PNG', '1.JPEG', '2.bmp', '3.webp'] and s.labels is None and s.classes is None
    assert torch.equal(s.images[[0, 2]], pixels[[0, 2]])


def test_class_folders_are_sorted_and_deep(tmp_path, pixels):
    save_images(pixels, tmp_path, ['b/1', 'a/deep/2', 'c/3', 'a/4', 'b/5', 'c/6'])
    (tmp_path / 'empty').mkdir()
    s = load_images(tmp_path)
    assert s.classes == ['a', 'b', 'c'] and s.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert s.names == ['a/4.png', 'a/deep/2.png', 'b/1.png', 'b/5.png', 'c/3.png', 'c/6.png']
    assert load_images(tmp_path, max_images=3).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize('write, first', [(str, 0), (str, 1), ('{:05d}'.format, 0)])
def test_numbered_folders_go_by_their_numbers(tmp_path, write, first):
    folders = [write(first + c) for c in range(12)]
    images = torch.arange(24, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    save_images(images, tmp_path, [f'{folders[i // 2]}/{i}' for i in range(24)])
    s = load_images(tmp_path)
    assert s.classes == folders and s.labels.tolist() == (s.images[:, 0, 0, 0] // 2).tolist()


def test_folders_of_a_run_are_the_labels_whichever_there_are(tmp_path, pixels):
    save_images(pixels, tmp_path, ['3/a', '3/b', '11/a', '7/a', '7/b', '7/c'])
    assert sorted(set(load_images(tmp_path).labels.tolist())) == [0, 1, 2]
    (tmp_path / 'run.json').write_text('{}')
    save_images(pixels[:1], tmp_path, ['grid'])  # of `difflow sample --grid`
    s = load_images(tmp_path)
    assert s.labels.tolist() == [int(name.split('/')[0]) for name in s.names] and s.classes == [
        str(c) for c in range(12)
    ]
    save_images(pixels[:1], tmp_path, ['other/a'])
    assert load_images(tmp_path).classes == ['11', '3', '7', 'other']


def test_images_beside_class_folders_mean_no_classes(tmp_path, pixels):
    save_images(pixels[:2], tmp_path, ['top', 'a/below'])
    assert load_images(tmp_path).labels is None


def test_folder_without_images_says_so(tmp_path):
    (tmp_path / 'x.txt').write_text('')
    with pytest.raises(ValueError, match='no images among its 1 files; known are .png'):
        load_images(tmp_path)


def test_dataset_json_in_a_folder(flat, pixels):
    (flat / 'dataset.json').write_text(json.dumps({'labels': [[f'{i:06d}.png', i % 2] for i in range(6)]}))
    assert load_images(flat).labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_many_files_open_without_reading_any(tmp_path):
    for c in range(10):
        (tmp_path / f'c{c}').mkdir()
        for i in range(200):
            (tmp_path / f'c{c}' / f'{i}.png').touch()  # empty: reading one would fail
    s = load_images(tmp_path, max_images=500)
    assert len(s) == 500 and s.labels.bincount().tolist() == [50] * 10


def test_zip_labels_of_every_kind(tmp_path, pixels):
    names = [f'00000/img{i:08d}.png' for i in range(6)]
    for expected in (list(range(6)), [[i, 1] for i in range(6)]):
        s = load_images(edm_zip(tmp_path / 'a.zip', pixels, [list(p) for p in zip(names, expected)]))
        assert s.labels.tolist() == expected and torch.equal(s.images, pixels)
        assert s.classes == (None if s.labels.ndim == 2 else [str(i) for i in range(6)])
    for labels in (None, ...):
        s = load_images(edm_zip(tmp_path / 'b.zip', pixels, labels))
        assert s.labels is None and s.classes is None and torch.equal(s.images, pixels)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ('{', 'not JSON'),
        ('{"label": []}', "no key 'labels'"),
        ('[]', "no key 'labels'"),
        ('{"labels": 3}', 'pairs'),
        ('{"labels": [["00000/img00000000.png", 1]]}', '5 images without label, first 00000/img00000001.png'),
        ([[f'00000/img{i:08d}.png', 0.5] for i in range(6)], 'labels are 6 integers'),
        ([[f'00000/img{i:08d}.png', 'cat'] for i in range(6)], 'labels are 6 integers'),
        ([[f'00000/img{i:08d}.png', [1] * i] for i in range(6)], 'labels are 6 integers'),
    ],
)
def test_wrong_dataset_json_is_named(tmp_path, pixels, labels, message):
    path = edm_zip(tmp_path / 'a.zip', pixels, labels)
    with pytest.raises(ValueError, match='dataset.json') as e:
        load_images(path)
    assert message in str(e.value) and str(path) in str(e.value)


def test_unreadable_zips_are_named(tmp_path, pixels):
    whole = edm_zip(tmp_path / 'a.zip', pixels).read_bytes()
    (tmp_path / 'cut.zip').write_bytes(whole[:-40])
    (tmp_path / 'text.zip').write_text('no zip')
    zipfile.ZipFile(tmp_path / 'none.zip', 'w').close()
    unreadable = 'unreadable zip'
    for name, message in (('cut', unreadable), ('text', unreadable), ('none', 'no images among its 0 files')):
        with pytest.raises(ValueError, match=message) as e:
            load_images(tmp_path / f'{name}.zip')
        assert f'{name}.zip' in str(e.value)


@pytest.mark.parametrize('keys', [('arr_0', 'arr_1'), ('images', 'labels')])
@pytest.mark.parametrize(
    ('layout', 'channels'), [('NHWC', 1), ('NHWC', 3), ('NCHW', 1), ('NCHW', 3), ('NHW', 1)]
)
def test_npz_layouts(tmp_path, pixels, keys, layout, channels):
    images = pixels[:, :channels]
    array = {'NHWC': images.permute(0, 2, 3, 1), 'NCHW': images, 'NHW': images[:, 0]}[layout].numpy()
    np.savez_compressed(tmp_path / 'a.npz', **{keys[0]: array, keys[1]: np.arange(6) % 3})
    s = load_images(tmp_path / 'a.npz')
    assert torch.equal(s.images, images)
    assert s.labels.tolist() == [0, 1, 2] * 2 and s.classes == ['0', '1', '2']
    np.savez(tmp_path / 'b.npz', **{keys[0]: array})
    assert load_images(tmp_path / 'b.npz').labels is None
    assert load_images(tmp_path / 'b.npz', size=4, channels=3, max_images=2).images.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'x': np.zeros((2, 4, 4, 3), np.uint8)}, "keys ['x'], wanted 'arr_0', 'images' or 'samples'"),
        ({'arr_0': np.zeros((2, 4, 4, 3), np.float32)}, "'arr_0' is float32 (2, 4, 4, 3), wanted uint8"),
        ({'images': np.zeros((2, 4, 4, 5), np.uint8)}, "'images' is uint8 (2, 4, 4, 5), wanted uint8"),
        ({'images': np.zeros((4, 4), np.uint8)}, 'wanted uint8'),
        ({'images': np.zeros((0, 4, 4), np.uint8)}, 'wanted uint8'),
        ({'arr_0': np.zeros((2, 4, 4), np.uint8), 'arr_1': np.arange(1)}, "'arr_1': labels are 2 integers"),
        (
            {'images': np.zeros((2, 4, 4), np.uint8), 'labels': np.arange(3)},
            "'labels': labels are 2 integers",
        ),
        ({'arr_0': np.zeros((2, 4, 4), np.uint8), 'arr_1': np.array([0, None])}, 'unreadable npz'),
        (
            {'arr_0': np.zeros((2, 4, 4), np.uint8), 'arr_1': np.array([0.5, 1])},
            "'arr_1': labels are 2 integers",
        ),
        ({'arr_0': np.array([None, {}])}, 'unreadable npz'),
    ],
)
def test_wrong_npz_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / 'a.npz', **arrays)
    with pytest.raises(ValueError, match='a.npz') as e:
        load_images(tmp_path / 'a.npz')
    assert message in str(e.value)


@pytest.mark.parametrize(
    ('labels', 'expected', 'words'),
    [(np.arange(8), [0, 1, 2, 3, 4, 5], '8 labels for 6 images'), (None, None, '6 images without labels')],
)
@pytest.mark.parametrize('write', [np.savez, np.savez_compressed])
def test_npz_as_minimal_diffusion_writes_it(tmp_path, pixels, labels, expected, words, write):
    "Labels of whole batches, or None, which numpy pickles: read, with a warning, and never unpickled"
    write(tmp_path / 'a.npz', pixels.permute(0, 2, 3, 1).numpy(), labels)
    with pytest.warns(UserWarning, match=f"a.npz: 'arr_1'.*{words}"):
        s = load_images(tmp_path / 'a.npz')
    assert torch.equal(s.images, pixels) and (s.labels if labels is None else s.labels.tolist()) == expected


def test_npz_never_unpickles(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    np.savez(tmp_path / 'a.npz', arr_0=np.array([Attack()], object))
    with pytest.raises(ValueError, match='unreadable npz'):
        load_images(tmp_path / 'a.npz')
    lone = np.empty((), object)
    lone[()] = Attack()
    np.savez(tmp_path / 'b.npz', np.zeros((2, 4, 4), np.uint8), lone)
    with pytest.warns(UserWarning, match='one Python object'):
        assert load_images(tmp_path / 'b.npz').labels is None
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.95])
def test_truncated_npz_is_named(tmp_path, pixels, keep):
    np.savez(tmp_path / 'a.npz', pixels.numpy())
    whole = (tmp_path / 'a.npz').read_bytes()
    (tmp_path / 'a.npz').write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match='a.npz: unreadable npz'):
        load_images(tmp_path / 'a.npz')


def test_npy_called_npz_is_named(tmp_path, pixels):
    with open(tmp_path / 'a.npz', 'wb') as f:
        np.save(f, pixels.numpy())
    with pytest.raises(ValueError, match='a.npz: unreadable npz'):
        load_images(tmp_path / 'a.npz')


def cifar_files(root):
    """Write files in CIFAR-10's own format: 5 training batches of 4 and a test batch of 6."""
    folder = root / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in [*((f'data_batch_{i}', 4) for i in range(1, 6)), ('test_batch', 6)]:
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        content = {'data': pixels, 'labels': (np.arange(n) % 10).tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': list('abcdefghij')}))


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda *a: True)
    cifar_files(tmp_path)
    return tmp_path


def test_cifar10_by_name_and_split(cifar):
    from torchvision import datasets

    theirs = datasets.CIFAR10(cifar, train=True)
    train, test, both = (load_images('cifar10', root=cifar, split=s) for s in ('train', 'test', 'all'))
    assert (len(train), len(test), len(both)) == (20, 6, 26)
    assert torch.equal(train.images, torch.from_numpy(theirs.data).permute(0, 3, 1, 2))
    assert train.labels.tolist() == theirs.targets and train.classes == list('abcdefghij')
    assert torch.equal(both.images, torch.cat([train.images, test.images]))
    assert train.names[3] == 'CIFAR10-00003'
    assert load_images('CIFAR10', root=cifar, size=8, channels=1, max_images=5).images.shape == (5, 1, 8, 8)


def test_torchvision_sets_reach_workers(cifar):
    s = load_images('cifar10', root=cifar, split='test')
    batches = list(DataLoader(s, 2, num_workers=2))
    assert torch.equal(torch.cat([x for x, _ in batches]), s.tensor())


def test_a_path_of_the_same_name_wins_without_root(cifar, pixels, monkeypatch):
    monkeypatch.chdir(cifar)
    save_images(pixels, 'cifar10')
    assert len(load_images('cifar10')) == 6 and len(load_images('cifar10', root=cifar)) == 26


def test_torchvision_failures_are_value_errors(tmp_path):
    with pytest.raises(ValueError, match='CIFAR10 needs root='):
        load_images('cifar10')
    with pytest.raises(ValueError, match='torchvision.datasets.CIFAR10: Dataset not found'):
        load_images('cifar10', root=tmp_path)
    with pytest.raises(ValueError, match='unexpected keyword'):
        load_images('cifar10', root=tmp_path, colour=1)
    with pytest.raises(ValueError, match='torchvision_split='):
        load_images('emnist', root=tmp_path)


def stub(monkeypatch, **attributes):
    """Give torchvision a set `Stub` with parts train, val and extra, and targets by item."""
    from torchvision import datasets

    class Stub(datasets.VisionDataset):
        classes = [('cat', 'tabby'), ('dog',)]

        def __init__(self, root, split='train'):
            if split not in ('train', 'val', 'extra'):
                raise ValueError(f'Unknown value {split!r}')
            super().__init__(root)
            self.n = {'train': 4, 'val': 2, 'extra': 3}[split]
            for name, value in attributes.items():
                setattr(self, name, value(self.n))

        def __len__(self):
            return self.n

        def __getitem__(self, i):
            return self.picture(i), self.target(i)

        def picture(self, i):
            return Image.new('L', (3, 3), i)

        def target(self, i):
            return i % 2

    monkeypatch.setattr(datasets, 'Stub', Stub, raising=False)
    monkeypatch.setattr(datasets, '__all__', (*datasets.__all__, 'Stub'))
    return Stub


def test_splits_by_other_names(monkeypatch):
    stub(monkeypatch)
    assert [len(load_images('stub', root='.', split=s)) for s in ('train', 'test', 'all')] == [4, 2, 6]
    assert len(load_images('stub', root='.', torchvision_split='extra')) == 3
    assert load_images('stub', root='.').classes == ['cat, tabby', 'dog']
    with pytest.raises(ValueError, match='Unknown value'):
        load_images('stub', root='.', torchvision_split='more')


def test_listed_targets_are_used_only_if_they_are_the_items(monkeypatch):
    stub(monkeypatch, targets=lambda n: [i % 2 for i in range(n)])
    assert load_images('stub', root='.', split='train').labels.tolist() == [0, 1, 0, 1]
    stub(monkeypatch, targets=lambda n: [7] * n)
    assert load_images('stub', root='.', split='train').labels.tolist() == [0, 1, 0, 1]


def test_targets_that_are_no_integers_mean_no_labels(monkeypatch):
    made = stub(monkeypatch)
    made.target = lambda self, i: {'box': [1, 2]}
    assert load_images('stub', root='.').labels is None
    made.target = lambda self, i: torch.tensor([i, 1])
    assert load_images('stub', root='.', split='train').labels.tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]


def test_folders_of_a_thousand_seeds_are_no_classes(tmp_path):
    "EDM's --subdirs: 000000/000007.png, 001000/001999.png; the same folders with other files are classes"
    picture = np.zeros((4, 4), np.uint8)
    for name in ('000000/000007', '000000/000999', '001000/001999', '012000/012000'):
        (tmp_path / 'seeds' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / 'seeds' / f'{name}.png')
    images = load_images(tmp_path / 'seeds')
    assert len(images) == 4 and images.labels is None and images.classes is None
    Image.fromarray(picture).save(tmp_path / 'seeds/000000/cat.png')
    assert load_images(tmp_path / 'seeds').labels.tolist() == [0, 0, 0, 1, 2]


def test_npz_of_samples_one_or_a_folder_of_them(tmp_path):
    "The keys of score_sde: `samples`, NHWC, in as many files as there were batches"
    batches = [np.random.default_rng(k).integers(0, 256, (3 - k, 4, 4, 3), dtype=np.uint8) for k in range(2)]
    for k, batch in enumerate(batches):
        np.savez(tmp_path / f'samples_{k}.npz', samples=batch)
    images = load_images(tmp_path)
    assert images.labels is None and images.names[3] == 'samples_1-00000'
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), np.concatenate(batches))
    assert len(load_images(tmp_path / 'samples_0.npz')) == 3
    np.savez(tmp_path / 'samples_2.npz', samples=batches[0][:, :2])
    with pytest.raises(ValueError, match=r'npz files hold images of \[\(2, 4, 3\), \(4, 4, 3\)\]'):
        load_images(tmp_path)


def test_sets_of_no_pictures_are_refused(monkeypatch):
    stub(monkeypatch).picture = lambda self, i: torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match='Stub holds Tensor, not pictures'):
        _ = load_images('stub', root='.').images
