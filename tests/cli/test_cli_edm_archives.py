"""`difflow dataset` on the archives of others: tables, tars that do harm, files that are cut short."""

import gzip
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
from option_changes import call
from PIL import Image


def zipped(path):
    "Return the images of a data set in their order"
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith('.png')]
        return names, [np.asarray(Image.open(archive.open(name))) for name in names]


class Table(dict):
    "What the package lmdb gives: a table of bytes, opened and begun"

    def open(self, path, readonly, lock):
        assert path.endswith('cat_lmdb') and readonly and not lock
        return self

    def begin(self):
        return self

    def cursor(self):
        return self

    def iternext(self, values):
        return iter(sorted(self))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize('more', ['', '--as-published'])
def test_lsun_is_read_in_the_order_of_its_keys(more, tmp_path, monkeypatch):
    "Each is cropped; as published by the rows of the result; what is too small leaves a gap in the numbers"
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 64, 3), dtype=np.uint8)
    table = Table()
    for key, picture in zip((b'b', b'a', b'c'), (pictures[1], pictures[0][:20, :20], pictures[2])):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format='PNG')
        table[key] = file.getvalue()
    (tmp_path / 'cat_lmdb').mkdir()
    (tmp_path / 'cat_lmdb/data.mdb').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'lmdb', types.SimpleNamespace(open=table.open))
    line = 'dataset --source cat_lmdb --dest a.zip --transform=center-crop-wide --resolution=32x16'
    code, printed = call(f'{line} {more}', tmp_path)
    assert code == 0 and '2 images, 1 too small' in printed
    names, images = zipped(tmp_path / 'a.zip')
    assert names == ['00000/img00000001.png', '00000/img00000002.png']
    for image, picture in zip(images, pictures[1:]):
        middle = picture[10:30] if more else picture[4:36]  # 20 rows are 40 / 64 of 32; 32 rows of 64 are 2:1
        expected = np.zeros((32, 32, 3), np.uint8)
        expected[8:24] = np.asarray(Image.fromarray(middle).resize((32, 16), Image.LANCZOS))
        assert np.array_equal(image, expected)


class Harm:
    def __reduce__(self):
        return os.system, ('touch harm',)


def tar(path, members):
    with tarfile.open(path, 'w:gz') as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


BATCH = dict(data=np.zeros((2, 3072), np.uint8), labels=[0, 1])


@pytest.mark.parametrize(
    'batch, words',
    [
        (BATCH | dict(more=Harm()), 'nothing in it was run'),
        (dict(data=np.zeros((2, 3071), np.uint8), labels=[0, 1]), 'no bytes (N, 3072)'),
        (dict(data=np.zeros((2, 3072), np.float32), labels=[0, 1]), 'no bytes (N, 3072)'),
        ([1], 'no bytes (N, 3072)'),
        (BATCH | dict(labels=[0]), '5 labels for 10 images'),
    ],
)
def test_bad_batches_of_cifar10_are_refused(batch, words, tmp_path):
    names = [f'cifar-10-batches-py/data_batch_{i}' for i in range(1, 6)]
    tar(tmp_path / 'cifar-10-python.tar.gz', dict.fromkeys(names, pickle.dumps(batch, 2)))
    code, printed = call('dataset --source cifar-10-python.tar.gz --dest a.zip', tmp_path)
    assert code == 2 and words in printed and printed.count('\n') == 1, printed
    assert [path.name for path in tmp_path.iterdir()] == ['cifar-10-python.tar.gz']


def test_other_tars_and_budgets(tmp_path, monkeypatch):
    path, line = tmp_path / 'cifar-10-python.tar.gz', 'dataset --source cifar-10-python.tar.gz --dest a.zip'
    tar(path, {'../cifar-10-batches-py/data_batch_1': b'x'})
    assert 'it has no cifar-10-batches-py/data_batch_1' in call(line, tmp_path)[1]
    path.write_bytes(path.read_bytes()[:40])
    assert 'unreadable tar' in call(line, tmp_path)[1]
    tar(path, {'large': bytes(100_000)})
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', '50000')
    assert 'more bytes than DIFFLOW_MAX_BYTES allows' in call(line, tmp_path)[1]


@pytest.mark.parametrize(
    'images, labels, words',
    [
        (b'\0\0\x08\x03\0\0\0\2\0\0\0\4\0\0\0\4' + bytes(31), b'\0\0\x08\1\0\0\0\2\1\2', 'needs 32 bytes'),
        (b'\0\0\x08\1\0\0\0\2' + bytes(40), b'\0\0\x08\1\0\0\0\2\1\2', 'begins with 00000801'),
        (b'\0\0\x08\x03\0\0\0\2\0\0\0\4\0\0\0\4' + bytes(32), b'\0\0\x08\1\0\0\0\3\1\2\3', 'labels are 2'),
        (b'\0\0\x08\x03' + b'\x7f\xff\xff\xff' * 3, b'', 'DIFFLOW_MAX_BYTES'),
        (b'\0\0\x08\x03\0\0\0\2\0\0\0\4\0\0\0\4' + bytes(32), None, 'train-labels-idx1-ubyte.gz'),
    ],
)
def test_bad_files_of_mnist_are_refused(images, labels, words, tmp_path):
    (tmp_path / 'train-images-idx3-ubyte.gz').write_bytes(gzip.compress(images))
    if labels is not None:
        (tmp_path / 'train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(labels))
    code, printed = call('dataset --source train-images-idx3-ubyte.gz --dest a.zip', tmp_path)
    assert code == 2 and words in printed and printed.count('\n') == 1, printed
    assert not (tmp_path / 'a.zip').exists()
