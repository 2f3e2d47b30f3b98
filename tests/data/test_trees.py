"""What folders mean, on a disk and in a zip: parts, classes, ranges of numbers, links."""

import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from difflow import load_images


def tree(root, names):
    "Write one picture of one pixel under each name, each of another grey"
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((1, 1), i, np.uint8)).save(root / name)
    return root


def zipped(folder, path, below=''):
    with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(folder.rglob('*')):
            archive.write(file, below + file.relative_to(folder).as_posix())
    return path


def content(path, split='all'):
    "Everything that a set says of itself; or the error, without the place"
    try:
        s = load_images(path, split=split)
    except ValueError as error:
        return str(error).replace(str(path), '')
    return s.names, s.classes, None if s.labels is None else s.labels.tolist(), s.images.flatten().tolist()


FOLDERS = ['', 'a/', 'b/', 'a/deep/', 'train/', 'val/', 'test/', 'train/a/', 'val/a/', 'train/b/', 'val/b/']
FOLDERS += ['0/', '1/', '00000/', '01000/', '000001/', 'x/train/a/', 'x/val/a/', 'x/a/', 'x/b/']
FILES = ['0.png', '1.png', '1000.png', 'img00001001.png', 'cat.png']


@pytest.mark.parametrize('seed', range(40))
def test_a_zip_means_what_its_folder_means(tmp_path, seed):
    "The files of a folder in a zip, and the folder itself (`zip -r`), for random trees and splits"
    draw = random.Random(seed)
    some = draw.sample(FOLDERS, draw.choice([1, 2, 2, 3]))
    names = sorted({draw.choice(some) + draw.choice(FILES) for _ in range(draw.choice([1, 3, 8]))})
    folder = tree(tmp_path / 'set', names)
    if draw.random() < 0.15:
        labels = [[n, draw.randrange(3)] for n in names]
        (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
    if draw.random() < 0.15:
        (folder / 'run.json').write_text('{}')
    inside, whole = zipped(folder, tmp_path / 'other.zip'), zipped(folder, tmp_path / 'set.zip', 'set/')
    for split in ('all', 'train', 'test'):
        assert content(folder, split) == content(inside, split) == content(whole, split), names


def test_npz_files_in_a_zip(tmp_path):
    (tmp_path / 'set').mkdir()
    for part, grey in (('train', 1), ('test', 2)):
        np.savez(tmp_path / f'set/{part}.npz', np.full((3, 2, 2), grey, np.uint8))
    path = zipped(tmp_path / 'set', tmp_path / 'set.zip')
    for split in ('all', 'train', 'test'):
        assert content(tmp_path / 'set', split) == content(path, split)
    assert load_images(path, split='test').images.unique().tolist() == [2]


# Parts


def test_parts_on_disk_are_not_classes(tmp_path):
    names = [f'{p}/{c}/{i}.png' for p in ('train', 'val') for c in ('cat', 'dog') for i in range(3)]
    tree(tmp_path / 'pets', names)
    whole, train, test = (load_images(tmp_path / 'pets', split=s) for s in ('all', 'train', 'test'))
    assert whole.names == names and train.names == names[:6] and test.names == names[6:]
    for s in (whole, train, test):
        assert s.classes == ['cat', 'dog'] and [s.classes[k] for k in s.labels] == [
            n.split('/')[1] for n in s.names
        ]
    assert load_images(tmp_path / 'pets', split='train', max_images=2).labels.tolist() == [0, 1]


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'Val'])
def test_val_is_a_part_of_its_own(tmp_path, val):
    tree(tmp_path, ['train/1.png', 'test/1.png', f'{val}/1.png', f'{val}/2.png'])
    assert [len(load_images(tmp_path, split=s)) for s in ('all', 'train', 'test')] == [4, 1, 1]
    shutil.rmtree(tmp_path / 'test')
    assert load_images(tmp_path, split='test').names == [f'{val}/1.png', f'{val}/2.png']


def test_train_beside_classes_is_a_class(tmp_path):
    tree(tmp_path, ['train/1.png', 'car/1.png', 'plane/1.png'])
    assert load_images(tmp_path).classes == ['car', 'plane', 'train']


def test_parts_of_ranges_have_no_classes(tmp_path):
    tree(tmp_path, ['train/00000/00001.png', 'train/01000/01001.png', 'test/02000/02001.png'])
    assert load_images(tmp_path).labels is None and len(load_images(tmp_path, split='train')) == 2


def test_parts_with_other_classes_are_named(tmp_path):
    tree(tmp_path, ['train/cat/1.png', 'train/dog/1.png', 'val/cat/1.png', 'val/cow/1.png'])
    for split in ('all', 'train', 'test'):
        with pytest.raises(ValueError, match='other classes: train/ cat, dog; val/ cat, cow'):
            load_images(tmp_path, split=split)


def test_a_part_without_classes_is_read_alone(tmp_path):
    tree(tmp_path, ['train/cat/1.png', 'train/dog/1.png', 'test/1.png'])
    assert load_images(tmp_path, split='train').labels.tolist() == [0, 1]
    assert load_images(tmp_path, split='test').labels is None
    with pytest.raises(ValueError, match='test/ without labels, .*choose one by split='):
        load_images(tmp_path)


def test_a_part_that_is_not_there(tmp_path):
    tree(tmp_path, ['val/1.png', 'test/1.png'])
    with pytest.raises(ValueError, match="split='train' leaves none of 2 images, whose parts are test, val"):
        load_images(tmp_path, split='train')


def test_dataset_json_of_each_part_and_of_all(tmp_path):
    tree(tmp_path, ['train/00000/0.png', 'train/00000/1.png', 'test/00000/0.png'])
    for part, labels in (('train', [3, 1]), ('test', [2])):
        pairs = [[f'00000/{i}.png', label] for i, label in enumerate(labels)]
        (tmp_path / part / 'dataset.json').write_text(json.dumps({'labels': pairs}))
    s = load_images(tmp_path)
    assert s.labels.tolist() == [2, 3, 1] and s.classes == ['0', '1', '2', '3']
    pairs = [[name, i] for i, name in enumerate(s.names)]
    (tmp_path / 'dataset.json').write_text(json.dumps({'labels': pairs}))
    assert load_images(tmp_path, split='train').labels.tolist() == [1, 2]


# Ranges


@pytest.mark.parametrize('width', range(1, 8))
@pytest.mark.parametrize('digits', [1, 5, 8])
@pytest.mark.parametrize('folder', [lambda i: i - i % 1000, lambda i: i // 1000])
@pytest.mark.parametrize('before', ['', 'img', 'seed-'])
def test_ranges_at_any_digit_count_are_no_classes(tmp_path, width, digits, folder, before):
    tree(tmp_path, [f'{folder(i):0{width}d}/{before}{i:0{digits}d}.png' for i in (0, 1, 1000, 69000)])
    s = load_images(tmp_path)
    assert len(s) == 4 and s.labels is None and s.classes is None


@pytest.mark.parametrize(
    ('names', 'classes'),
    [
        ([f'{c}/{i}.png' for c in range(3) for i in range(2)], ['0', '1', '2']),  # each from 0
        ([f'{i % 3}/{i:05d}.png' for i in range(9)], ['0', '1', '2']),  # throughout, mixed
        ([f'{i // 3:05d}/{i:05d}.png' for i in range(9)], ['00000', '00001', '00002']),  # sorted
        (['0/0.png', '0/1.png'], ['0']),  # one class
        (['00000/00000_00001.ppm', '00001/00000_00001.ppm'], ['00000', '00001']),  # as GTSRB
        (['000000/000007.png', '000000/cat.png'], ['000000']),  # one name without a number
        (['0000/0.png', '01000/1000.png'], ['0000', '01000']),  # two widths
        (['01000/0.png', '00000/1000.png'], ['00000', '01000']),  # exchanged
        (['00000/0.png', 'other/1000.png'], ['00000', 'other']),
    ],
)
def test_numbered_classes_are_classes(tmp_path, names, classes):
    assert load_images(tree(tmp_path, names)).classes == classes


# Links


def test_linked_folders_and_files_are_followed(tmp_path):
    tree(tmp_path, ['s/b/1.png', 'd/a/1.png'])
    os.symlink(tmp_path / 's/b', tmp_path / 'd/b')
    os.symlink(tmp_path / 's/b/1.png', tmp_path / 'd/a/2.png')
    s = load_images(tmp_path / 'd')
    assert s.labels.tolist() == [0, 0, 1] and s.classes == ['a', 'b'] and s.broken() == {}
    os.symlink(tmp_path / 'd', tmp_path / 'all')
    assert load_images(tmp_path / 'all').names == s.names


def test_links_that_close_a_circle_end(tmp_path):
    tree(tmp_path, ['a/1.png', 'b/1.png'])
    os.symlink('..', tmp_path / 'a/up')
    os.symlink('.', tmp_path / 'b/here')
    os.symlink('itself.png', tmp_path / 'b/itself.png')
    s = load_images(tmp_path)
    assert s.names == ['a/1.png', 'b/1.png', 'b/itself.png'] and list(s.broken()) == [2]
    tree(tmp_path / 'two', ['a/1.png', 'b/1.png'])
    os.symlink(tmp_path / 'two/a', tmp_path / 'two/b/x')
    os.symlink(tmp_path / 'two/b', tmp_path / 'two/a/y')
    assert load_images(tmp_path / 'two').names == ['a/1.png', 'a/y/1.png', 'b/1.png', 'b/x/1.png']


def test_a_link_into_nothing_is_named(tmp_path):
    tree(tmp_path, ['1.png'])
    os.symlink('nowhere', tmp_path / '2.png')
    assert list(load_images(tmp_path).broken()) == [1]
