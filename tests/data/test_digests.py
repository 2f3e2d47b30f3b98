"""The digest of a set: the same wherever its files lie, another for anything that changes its pixels."""

import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflow import ImageSet, load_images
from difflow.data import digests, images_digest, published_set, save_images, to_float
from difflow.data.studies import PublishedImages


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "Remember everything, in a folder of the test"
    monkeypatch.setenv('DIFFLOW_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(digests, '_MANY', 1)
    return tmp_path / 'cache' / 'digests'


@pytest.fixture
def read_files(monkeypatch):
    "The names of the files that are read"
    names, original = [], digests._hashes
    monkeypatch.setattr(digests, '_hashes', lambda read, new: names.extend(new) or original(read, new))
    return names


def zipped(folder):
    return Path(shutil.make_archive(str(folder), 'zip', folder))


def aged(folder):
    "Wait until a change would have another time"
    latest = max(os.stat(f).st_ctime_ns for f in [folder, *folder.rglob('*')])
    while time.time_ns() - latest < 1.5e8:
        time.sleep(0.02)


def test_copies_and_zips_are_the_same_data(tmp_path, pixels):
    save_images(pixels, tmp_path / 'a', ['x/1', 'x/2', 'y/3', 'y/4', 'y/5', 'z/6'])
    shutil.copytree(tmp_path / 'a', tmp_path / 'deep/b')
    sets = [load_images(p) for p in (tmp_path / 'a', tmp_path / 'deep/b', zipped(tmp_path / 'a'))]
    assert len({images_digest(s) for s in sets}) == 1
    for s in sets:
        _ = s.images  # decoded now
    assert len({images_digest(s[1:]) for s in sets}) == 1 and images_digest(sets[0]) != images_digest(
        sets[0][1:]
    )
    (tmp_path / 'a/x').rename(tmp_path / 'a/w')
    assert images_digest(load_images(tmp_path / 'a')) == images_digest(sets[1])


def test_everything_that_changes_images_changes_the_digest(tmp_path, pixels):
    save_images(pixels, tmp_path / 'a', ['x/1', 'x/2', 'y/3', 'y/4', 'y/5', 'z/6'])
    s = load_images(tmp_path / 'a')
    others = [load_images(tmp_path / 'a', **o) for o in (dict(size=4), dict(channels=1), dict(orient=False))]
    others += [s, s[::-1], s[:5], s[[0, 0, 1, 2, 3, 4]], s[:0]]
    unlabelled = load_images(tmp_path / 'a')
    unlabelled.labels = None
    changed = load_images(tmp_path / 'a')
    changed.labels = changed.labels.roll(1)
    others += [unlabelled, changed, ImageSet(s.images, s.labels), ImageSet.of(s.tensor())]
    assert len({images_digest(o) for o in others}) == len(others)


def test_what_is_in_memory(pixels):
    x = to_float(pixels)
    assert images_digest(x) == images_digest(ImageSet.of(x)) == images_digest(ImageSet.of(x.clone()))
    others = [x, x.double(), x.half(), x.bfloat16(), pixels, x[:5], x.flip(0), x.reshape(6, 3, 12, 9)]
    others += [ImageSet(pixels, range(6)), ImageSet(pixels, [[i] for i in range(6)]), x + 1e-7]
    assert len({images_digest(o) for o in others}) == len(others)
    assert images_digest(pixels.numpy()) == images_digest(ImageSet(pixels)) == images_digest(pixels)
    assert images_digest(x.requires_grad_()) == images_digest(x.detach())
    for wrong in (None, 3, pixels[:0].numpy(), {}):
        with pytest.raises(ValueError, match='images'):
            images_digest(wrong)


def test_data_sets_of_torchvision():
    one, other = (load_images('fakedata', size=8, max_images=5, seed=k, image_size=(3, 4, 4)) for k in (0, 1))
    before = images_digest(one)
    _ = one.images
    assert images_digest(one) == before != images_digest(other)


def test_published_sets_by_files_and_crops(tmp_path):
    rng = np.random.default_rng(0)
    for place in ('a', 'b'):
        for kind in range(3):
            (tmp_path / place / f'afhq/train/{kind}').mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(6):
            picture = Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8))
            picture.save(tmp_path / place / f'afhq/train/{i % 3}/{i}.png')
    a, b = (published_set('afhq', tmp_path / place) for place in ('a', 'b'))
    other = published_set('afhq', tmp_path / 'a', size=32)
    grey = published_set('afhq', tmp_path / 'a', channels=1)
    a.transform, kept = a.transform[:-1], a.transform
    unmirrored, a.transform = images_digest(a), kept
    assert images_digest(a) == images_digest(b) and images_digest(a[::-1]) == images_digest(b[::-1])
    assert len({unmirrored, *map(images_digest, (a, other, grey, a[1:], a[::-1]))}) == 6
    assert a[1:3].summary() == '2 of 6 images of afhq, 64x64x3, 3 classes'
    (tmp_path / 'b/afhq/train/0/0.png').write_bytes((tmp_path / 'b/afhq/train/0/3.png').read_bytes())
    assert images_digest(a) != images_digest(b)


def test_published_images(pixels):
    images = ImageSet(pixels[..., :9], range(6))
    x = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    one, other = (PublishedImages(ImageSet(x, images.labels), name) for name in ('cifar10', 'cifar100'))
    assert images_digest(one) == images_digest(PublishedImages(ImageSet(x, range(6)), 'cifar10'))
    assert images_digest(one) != images_digest(other)


# What is remembered


@pytest.mark.parametrize('zip_it', [False, True])
def test_files_are_read_once(tmp_path, flat, cache, read_files, zip_it):
    place = zipped(flat) if zip_it else flat
    aged(tmp_path)
    digest = images_digest(load_images(place))
    assert len(read_files) == 6 and len(os.listdir(cache)) == 1
    assert images_digest(load_images(place)) == digest and len(read_files) == 6
    images_digest(load_images(place, size=4, max_images=3))
    assert len(read_files) == 6


@pytest.mark.parametrize('zip_it', [False, True])
@pytest.mark.parametrize('wait', [False, True])
def test_replaced_content_is_seen(tmp_path, flat, zip_it, wait):
    "Also within the same second, in the same size, and with the old time put back"
    seen, past = set(), 0
    for turn in range(4):
        place = zipped(flat) if zip_it else flat
        target = place if zip_it else flat / '000002.png'
        if turn == 2:
            os.utime(target, ns=(past, past))
        past = os.stat(target).st_mtime_ns
        if wait:
            aged(tmp_path)
        seen.add(images_digest(load_images(place)))
        content = bytearray((flat / '000002.png').read_bytes())
        content[45] = 200 + turn  # no picture any more; the size stays
        (flat / '000002.png').write_bytes(content)
    assert len(seen) == 4


def test_a_file_that_was_touched_is_the_same_data(tmp_path, flat):
    aged(tmp_path)
    digest = images_digest(load_images(flat))
    os.utime(flat / '000001.png')
    assert images_digest(load_images(flat)) == digest


def test_what_changed_just_now_is_not_remembered(flat, read_files, monkeypatch):
    newest = max(flat.iterdir(), key=lambda f: os.stat(f).st_ctime_ns)
    now = os.stat(newest).st_ctime_ns
    for later, times in ((0, 2), (9e7, 2), (-1e12, 2), (2.1e9, 1)):
        monkeypatch.setattr(digests.time, 'time_ns', lambda later=later: int(now + later))
        read_files.clear()
        for _ in range(2):
            images_digest(load_images(flat))
        assert read_files.count(newest.name) == times


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'{"000001.png": 3}', b'\xff\xfe'])
def test_a_damaged_memory_is_written_anew(tmp_path, flat, cache, read_files, content):
    aged(tmp_path)
    digest = images_digest(load_images(flat))
    (file,) = cache.iterdir()
    file.write_bytes(content)
    for _ in range(2):
        assert images_digest(load_images(flat)) == digest
    assert len(read_files) == 12


def test_without_a_place_to_remember(tmp_path, flat, monkeypatch):
    aged(tmp_path)
    digest = images_digest(load_images(flat))
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('DIFFLOW_CACHE', str(tmp_path / 'file'))
    assert images_digest(load_images(flat)) == digest
    monkeypatch.delenv('DIFFLOW_CACHE')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', lambda: (_ for _ in ()).throw(RuntimeError('no home')))
    assert images_digest(load_images(flat)) == digest


def test_small_sets_leave_nothing_behind(tmp_path, flat, cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv('DIFFLOW_CACHE', str(tmp_path / 'cache'))
    aged(tmp_path)
    images_digest(load_images(flat))
    assert not cache.exists()


def test_the_oldest_are_forgotten(tmp_path, flat, cache, monkeypatch):
    monkeypatch.setattr(digests, '_KEPT', 2)
    aged(tmp_path)
    for k in range(4):
        shutil.copytree(flat, tmp_path / f'copy{k}')
    aged(tmp_path)
    for k in range(4):
        images_digest(load_images(tmp_path / f'copy{k}'))
    assert len(os.listdir(cache)) == 2


def test_files_that_cannot_be_read_are_named(tmp_path, flat):
    s = load_images(flat)
    (flat / '000003.png').unlink()
    with pytest.raises(ValueError, match='000003.png: unreadable image'):
        images_digest(s)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.write(flat / '000001.png', '000001.png')
    s = load_images(tmp_path / 'a.zip')
    content = bytearray((tmp_path / 'a.zip').read_bytes())
    content[120] ^= 255
    (tmp_path / 'a.zip').write_bytes(content)
    with pytest.raises(ValueError, match='000001.png: unreadable image'):
        images_digest(load_images(tmp_path / 'a.zip'))
    (tmp_path / 'a.zip').write_bytes(b'')
    with pytest.raises(ValueError, match='a.zip: unreadable zip'):
        images_digest(s)
