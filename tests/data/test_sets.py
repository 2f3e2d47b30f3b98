"""Faults, formats and processes of difflow.data.sets that do not teach."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from difflow.data import sets as data
from difflow.data.builtin import _PALETTE
from difflow.data.canvas import (
    _resize_crop,
    _to_mode,
    image_grid,
    save_images,
    show_images,
    to_float,
    to_uint8,
    write_png,
)
from difflow.data.sets import ImageSet, check_images, load_images, stratified_order
from difflow.files import package_file


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (6, 3, 9, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def flat(tmp_path, pixels):
    save_images(pixels, tmp_path / 'flat')
    return tmp_path / 'flat'


def encode(image, format, **options):
    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(out, format=format, **options)
    return out.getvalue()


def edm_zip(path, pixels, labels=..., name='00000/img{:08d}.png'):
    with zipfile.ZipFile(path, 'w') as z:
        for i, image in enumerate(pixels):
            z.writestr(name.format(i), encode(image, 'PNG'))
        if labels is not ...:
            z.writestr('dataset.json', labels if isinstance(labels, str) else json.dumps({'labels': labels}))
    return path


# embedded sets


def test_mnist5k_states_its_origin_and_licence():
    folder = package_file('embedded')
    with np.load(folder / 'mnist5k.npz') as z:
        assert z['images'].dtype == z['labels'].dtype == np.uint8
        assert 'MNIST' in str(z['origin']) and 'CC BY-SA 3.0' in str(z['origin'])
    text = (folder / 'LICENSE-mnist5k.txt').read_text()
    assert 'Creative Commons' in text and 'Yann LeCun' in text


def test_digits_fill_the_range_by_rounding():
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images)
    s = load_images('digits')
    assert len(s) == 1797 and s.images.unique().numel() == 17
    assert (s.images[:, 0] - raw * 255 / 16).abs().max() <= 0.5


def test_colored_mnist_pixels_follow_labels():
    grey, s = load_images('mnist5k').images.float() / 255, load_images('colored_mnist', seed=5)
    palette = torch.tensor(list(_PALETTE.values())).float()
    _, back, fore = s.labels.T
    exact = grey * palette[fore][..., None, None] + (1 - grey) * palette[back][..., None, None]
    assert (s.images - exact).abs().max() <= 0.5 + 1e-4
    assert (back == fore).any()
    assert torch.equal(load_images('colored_mnist', seed=5).images, s.images)


@pytest.mark.parametrize('name', ['digits', 'mnist5k', 'colored_mnist'])
def test_train_and_test_do_not_depend_on_the_seed(name):
    parts = [[set(load_images(name, split=p, seed=s).names) for s in (0, 9)] for p in ('train', 'test')]
    assert parts[0][0] == parts[0][1] and parts[1][0] == parts[1][1]
    assert not parts[0][0] & parts[1][0] and len(parts[0][0] | parts[1][0]) == len(load_images(name))


# options


@pytest.mark.parametrize(
    ('option', 'value', 'allowed'),
    [
        ('size', 0, '>= 1'),
        ('size', -4, '>= 1'),
        ('size', 7.5, '>= 1'),
        ('size', True, '>= 1'),
        ('size', '32', '>= 1'),
        ('max_images', 0, '>= 1'),
        ('seed', -1, '>= 0'),
        ('seed', None, '>= 0'),
        ('channels', 2, '1, 3 or None'),
        ('channels', 'L', '1, 3 or None'),
        ('split', 'val', 'allowed: all, train, test'),
        ('split', None, 'allowed: all, train, test'),
    ],
)
def test_bad_options_are_named_before_any_work(option, value, allowed, tmp_path):
    with pytest.raises(ValueError, match='allowed') as e:
        load_images(tmp_path / 'is not even there', **{option: value})
    assert f'{option}={value!r}' in str(e.value) and allowed in str(e.value)


@pytest.mark.parametrize('name', ['nosuch', 'nosuch.zip', 'a/b.npz', '', 'MNIST5K'])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match='unknown image set') as e:
        load_images(name)
    for known in ('digits', 'mnist5k', 'colored_mnist', 'folder', 'CIFAR10', 'CelebA'):
        assert known in str(e.value)


def test_options_of_torchvision_are_refused_elsewhere(flat):
    with pytest.raises(ValueError, match='takes no root=, download='):
        load_images(flat, root='x', download=True)


def test_max_images_beyond_the_set_takes_all(flat):
    assert len(load_images(flat, max_images=100)) == 6


def test_empty_part_is_refused(tmp_path, pixels):
    save_images(pixels[:1], tmp_path)
    with pytest.raises(ValueError, match="split='train' leaves none of 1"):
        load_images(tmp_path, split='train')


def test_stratified_order_of_rare_classes_and_no_labels():
    labels = np.array([0] * 90 + list(range(1, 11)))
    assert sorted(stratified_order(100, labels, 3)) == list(range(100))
    assert sorted(stratified_order(7, None)) == list(range(7)) and len(stratified_order(0, None)) == 0
    assert (stratified_order(100, labels, 1) != stratified_order(100, labels, 2)).any()


# resizing and modes


@pytest.mark.parametrize('shape', [(427, 640), (64, 64), (65, 127), (129, 128), (30, 300), (500, 37), (1, 1)])
@pytest.mark.parametrize('size', [1, 8, 64])
def test_resize_follows_the_published_steps(shape, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    width, height = picture.size
    expected = picture
    while min(width, height) >= 2 * size:  # the recipe in its own words, on an array crop
        width, height = width // 2, height // 2
        expected = expected.resize((width, height), resample=Image.BOX)
    scale = size / min(width, height)
    wanted = round(width * scale), round(height * scale)
    expected = np.array(expected.resize(wanted, resample=Image.BICUBIC))
    y, x = (expected.shape[0] - size) // 2, (expected.shape[1] - size) // 2
    assert np.array_equal(np.array(_resize_crop(picture, size)), expected[y : y + size, x : x + size])


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I;16', 'I'])
def test_every_mode_becomes_one_or_three_channels(mode):
    picture = Image.new('L' if mode.startswith('I') else 'RGB', (4, 3), 'white').convert(mode)
    assert _to_mode(picture, 1).mode == 'L' and _to_mode(picture, 3).mode == 'RGB'
    assert _to_mode(picture).mode == ('L' if mode in ('1', 'L', 'LA', 'I;16', 'I') else 'RGB')


def test_sixteen_bits_and_transparency_through_files(tmp_path):
    Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16)).save(tmp_path / 'deep.png')
    assert load_images(tmp_path / 'deep.png').images.flatten().tolist() == [0, 0, 1, 255]
    palette = Image.new('P', (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / 'palette.png', transparency=0)
    image = load_images(tmp_path / 'palette.png').images[0]
    assert image.permute(1, 2, 0).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_integers_without_a_range_are_refused():
    with pytest.raises(ValueError, match='allowed is 0..65535'):
        _to_mode(Image.fromarray(np.array([[70000]], np.int32)))


# folders


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


def test_folders_are_lazy(tmp_path, flat, monkeypatch):
    opened = []
    original = data._FileReader.__call__
    monkeypatch.setattr(data._FileReader, '__call__', lambda self, i: opened.append(i) or original(self, i))
    s = load_images(flat, size=4)
    assert len(s[[1, 2, 3]]) == 3 and not opened
    s[4]
    assert opened == [4] and not s.decoded
    assert s[2:4].tensor([1]).shape == (1, 3, 4, 4) and opened == [4, 3]
    s.images
    assert s.decoded and len(opened) == 8 and s.image_shape == (3, 4, 4)
    s.images, s[0], s.tensor()
    assert len(opened) == 8


def test_many_files_open_without_reading_any(tmp_path):
    for c in range(10):
        (tmp_path / f'c{c}').mkdir()
        for i in range(200):
            (tmp_path / f'c{c}' / f'{i}.png').touch()  # empty: reading one would fail
    s = load_images(tmp_path, max_images=500)
    assert len(s) == 500 and s.labels.bincount().tolist() == [50] * 10


def test_differing_shapes_name_both_files(tmp_path, pixels):
    save_images(pixels[:1], tmp_path, ['a'])
    save_images(pixels[:1, :1], tmp_path, ['b'])
    s = load_images(tmp_path)
    assert s[0][0].shape == (3, 9, 12) and s[1][0].shape == (1, 9, 12)
    with pytest.raises(ValueError, match=r'a.png is \(3, 9, 12\).*b.png \(1, 9, 12\): pass size='):
        s.images
    assert load_images(tmp_path, channels=3).images.shape == (2, 3, 9, 12)


# unreadable files


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'BMP', 'WEBP', 'GIF', 'TIFF'])
@pytest.mark.parametrize('keep', [0, 1, 30, 0.3, 0.6, 0.9])
def test_truncated_files_are_named(tmp_path, format, keep):
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = encode(image, format)
    path = tmp_path / f'cut.{format.lower()}'
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match='unreadable image') as e:
        load_images(path)
    assert str(path) in str(e.value)
    with pytest.raises(ValueError, match='unreadable image'):
        load_images(tmp_path)[0]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / 'x.png').write_text('<html>404</html>')
    with pytest.raises(ValueError, match='x.png: unreadable image .no image format that Pillow knows'):
        load_images(tmp_path / 'x.png')


def test_a_file_that_vanished_is_named(flat):
    s = load_images(flat)
    (flat / '000002.png').unlink()
    with pytest.raises(ValueError, match='000002.png: unreadable image'):
        s[2]
    assert list(s.broken()) == [2]


def test_broken_finds_all_and_reads_on(flat):
    for i in (1, 4):
        (flat / f'{i:06d}.png').write_bytes(b'\x89PNG')
    reasons = load_images(flat).broken()
    assert list(reasons) == [1, 4] and '000004.png' in reasons[4]


def test_unreadable_files_in_a_worker_are_named(flat):
    (flat / '000003.png').write_bytes(b'')
    with pytest.raises(ValueError, match='000003.png: unreadable image'):
        list(DataLoader(load_images(flat), 2, num_workers=1, collate_fn=ImageSet.collate))


# zips


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


def test_damaged_zip_member_is_named(tmp_path, pixels):
    path = edm_zip(tmp_path / 'a.zip', pixels)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        start = z.infolist()[2].header_offset
    content[start + 200] ^= 255  # its CRC no longer agrees
    path.write_bytes(content)
    s = load_images(path)
    assert list(s.broken()) == [2]
    with pytest.raises(ValueError, match='a.zip/00000/img00000002.png: unreadable image'):
        s.images


def test_zip_handles_are_not_shared_between_processes(tmp_path, pixels):
    pixels = pixels.repeat(10, 1, 1, 1)
    s = load_images(edm_zip(tmp_path / 'a.zip', pixels, None))
    s[0]  # the parent's handle is open before the fork
    assert s._held.read._handle[0] == os.getpid()
    for _ in range(2):
        got = torch.cat([x for x, _ in DataLoader(s, 3, num_workers=2, collate_fn=ImageSet.collate)])
        assert torch.equal(got, to_float(pixels))
    assert torch.equal(pickle.loads(pickle.dumps(s)).images, pixels)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_by_fork_and_spawn(tmp_path, pixels, method):
    s = load_images(edm_zip(tmp_path / 'a.zip', pixels, [[f'00000/img{i:08d}.png', i] for i in range(6)]))
    batches = list(DataLoader(s, 2, num_workers=1, multiprocessing_context=method))
    assert torch.equal(torch.cat([x for x, _ in batches]), to_float(pixels))
    assert torch.cat([y for _, y in batches]).tolist() == list(range(6))


# npz


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
        ({'arr_0': np.zeros((2, 4, 4), np.uint8), 'arr_1': np.arange(3)}, "'arr_1': labels are 2 integers"),
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


def test_npz_never_unpickles(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    np.savez(tmp_path / 'a.npz', arr_0=np.array([Attack()], object))
    with pytest.raises(ValueError, match='unreadable npz'):
        load_images(tmp_path / 'a.npz')
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


# torchvision


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


def test_sets_of_no_pictures_are_refused(monkeypatch):
    stub(monkeypatch).picture = lambda self, i: torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match='Stub holds Tensor, not pictures'):
        load_images('stub', root='.').images


# ImageSet


def test_sets_without_labels_collate(flat):
    image, label = load_images(flat)[0]
    assert label is None and image.dtype == torch.float32
    images, labels = next(iter(DataLoader(load_images(flat), 4, collate_fn=ImageSet.collate)))
    assert images.shape == (4, 3, 9, 12) and labels is None


@pytest.mark.parametrize('index', [6, -7, [0, 6], torch.tensor([9])])
def test_indices_out_of_range(pixels, index):
    with pytest.raises(IndexError, match='allowed is -6..5'):
        ImageSet(pixels)[index]


@pytest.mark.parametrize('index', [1.5, [0.5], [[0, 1]], [True, False]])
def test_wrong_indices(pixels, index):
    with pytest.raises(ValueError, match='an index into 6 images'):
        ImageSet(pixels)[index]


def test_empty_selections(pixels):
    s = ImageSet(pixels, labels=range(6))
    for none in ([], slice(0, 0), torch.zeros(6, dtype=torch.bool)):
        assert len(s[none]) == 0 and len(s.tensor(none)) == 0


def test_several_labels_an_image(pixels):
    s = ImageSet(pixels, labels=[[i, 2 * i] for i in range(6)])
    assert s[3][1].tolist() == [3, 6] and s[[1, 2]].labels.tolist() == [[1, 2], [2, 4]]
    assert next(iter(DataLoader(s, 2)))[1].tolist() == [[0, 0], [1, 2]]


# saving and showing


def test_float_images_survive_saving(tmp_path):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    save_images(to_float(levels), tmp_path)
    assert torch.equal(load_images(tmp_path).images, levels)
    assert torch.equal(to_uint8(load_images(tmp_path)[0][0]), levels[0])


def test_nothing_half_written(tmp_path, pixels, monkeypatch):
    save_images(pixels[:1], tmp_path, ['a'])
    before = (tmp_path / 'a.png').read_bytes()
    original = Image.Image.save

    def dies(self, path, **options):
        original(self, path, **options)
        Path(path).write_bytes(Path(path).read_bytes()[:20])
        raise OSError('disk full')

    monkeypatch.setattr(Image.Image, 'save', dies)
    with pytest.raises(OSError, match='disk full'):
        save_images(pixels[1:2], tmp_path, ['a'])
    assert (tmp_path / 'a.png').read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_the_name_appears_by_renaming_alone(tmp_path, pixels, monkeypatch):
    def dies(source, target):
        assert Path(target).name == 'a.png' and Image.open(source).size == (12, 9)
        raise OSError('killed')

    monkeypatch.setattr(os, 'replace', dies)
    with pytest.raises(OSError, match='killed'):
        save_images(pixels[:1], tmp_path, ['a'])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['../a', '/a', 'a/../../b', 'a\\b', ''])
def test_names_stay_in_the_folder(tmp_path, pixels, name):
    with pytest.raises(ValueError, match='not a file name within the folder'):
        save_images(pixels[:1], tmp_path / 'x', [name])
    assert not list(tmp_path.iterdir())


def test_names_that_collide_or_miscount(tmp_path, pixels):
    with pytest.raises(ValueError, match='1 names repeat, first a.png'):
        save_images(pixels[:2], tmp_path, ['a.jpg', 'a.png'])
    with pytest.raises(ValueError, match='1 names for 2 images'):
        save_images(pixels[:2], tmp_path, ['a'])
    assert not list(tmp_path.iterdir())
    assert [p.name for p in save_images(pixels[:2], tmp_path, ['v1.5', 'x.jpeg'])] == ['v1.5.png', 'x.png']


def test_lazy_sets_are_saved_one_by_one(flat, tmp_path):
    s = load_images(flat, size=5)
    save_images(s, tmp_path / 'small')
    assert not s.decoded and torch.equal(load_images(tmp_path / 'small').images, s.images)


def test_write_png_makes_folders(tmp_path, pixels):
    path = write_png(image_grid(pixels), tmp_path / 'a' / 'b' / 'grid.png')
    assert Image.open(path).format == 'PNG'


def test_grid_holds_every_image(pixels):
    grid = np.array(image_grid(pixels, columns=4, scale=3, gap=5))
    for i in range(6):
        y, x = 5 + i // 4 * (27 + 5), 5 + i % 4 * (36 + 5)
        assert np.array_equal(grid[y : y + 27 : 3, x : x + 36 : 3], pixels[i].permute(1, 2, 0).numpy())
        assert np.array_equal(
            grid[y + 2 : y + 27 : 3, x + 2 : x + 36 : 3], pixels[i].permute(1, 2, 0).numpy()
        )


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: image_grid(torch.zeros(2, 2, 4, 4)), 'C = 1 or 3'),
        (lambda: image_grid(torch.zeros(0, 1, 4, 4)), 'C = 1 or 3'),
        (lambda: image_grid(torch.zeros(1, 4, 4), columns=0), 'columns=0'),
        (lambda: image_grid(torch.zeros(1, 4, 4), scale=0), 'scale=0'),
        (lambda: image_grid(torch.zeros(1, 4, 4), titles=['a', 'b']), '2 titles for 1 images'),
        (lambda: image_grid(torch.full((1, 4, 4), float('nan'))), 'NaN'),
    ],
)
def test_grid_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_show_images_displays_one_picture(monkeypatch, pixels):
    shown = []
    monkeypatch.setattr('IPython.display.display', lambda picture, **options: shown.append(picture))
    assert show_images(pixels, titles=list('abcdef'), columns=3, scale=2) is None
    assert len(shown) == 1 and isinstance(shown[0], Image.Image)


# images that enter a study


@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (np.zeros((1, 1, 4, 4), np.float32), 'not ndarray'),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 'to_float'),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), 'not torch.int64'),
        (torch.zeros(1, 4, 4), r'not \(1, 4, 4\)'),
        (torch.zeros(0, 1, 4, 4), 'none of them 0'),
        (torch.zeros(1, 3, 4, 4), r'of \(3, 4, 4\), the model takes \(1, 4, 4\)'),
        (torch.full((1, 1, 4, 4), float('nan')), '16 of 16 values are NaN'),
        (torch.full((1, 1, 4, 4), float('inf')), 'infinite'),
        (torch.full((1, 1, 4, 4), 255.0), r'lies in \[255, 255\], allowed is \[-1, 1\]'),
        (torch.full((1, 1, 4, 4), -1.01), r'lies in \[-1.01, -1.01\]'),
    ],
)
def test_check_images_names_what_is_wrong(x, message):
    with pytest.raises(ValueError, match='^start.*' + message):
        check_images(x, (1, 4, 4), name='start')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_images_returns_float32(dtype):
    x = torch.full((2, 1, 4, 4), 1.0005, dtype=dtype)
    assert check_images(x).dtype == torch.float32 and check_images(x, (1, 4, 4)).shape == (2, 1, 4, 4)


def test_import_is_light():
    heavy = {'torchvision', 'sklearn', 'matplotlib', 'IPython'}
    code = f'import sys, difflow.data.sets; print({heavy} & set(sys.modules))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == 'set()'


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
