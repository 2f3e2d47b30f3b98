"""How the lines of published scripts run in a test, and what is read afterwards."""

import functools
import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from PIL import Image
from published_runs import Run

from difflow import SSCD, SongUNet
from difflow.cli import fidelity
from edm_files import snapshot
from edm_networks import TINY, by_order

# Models and images


@functools.cache
def model(classes=0):
    "Return the bytes of a small snapshot in EDM's pickle"
    import tempfile

    net = by_order(SongUNet(**TINY, label_dim=classes, augment_dim=9))
    with tempfile.TemporaryDirectory() as folder:
        return snapshot(Path(folder, 'net.pkl'), 'EDMPrecond', net, sigma_data=0.5).read_bytes()


def put_model(path, classes=0):
    "Return a function that lays out a snapshot"

    def prepare(folder):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(model(classes))

    return prepare


def pictures(n, shape, seed=0):
    "Return random bytes as images"
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_set(path, images, labels=None):
    "Write a data set in EDM's layout with zipfile alone"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as archive:
        names = [f'00000/img{i:08d}.png' for i in range(len(images))]
        for name, image in zip(names, images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, format='PNG')
            archive.writestr(name, file.getvalue())
        pairs = None if labels is None else [[n, int(v)] for n, v in zip(names, labels)]
        archive.writestr('dataset.json', json.dumps({'labels': pairs}))


def write_folder(folder, images, name='{:06d}.png'):
    "Write images under the names of their numbers"
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(i))


# generate


def images_of(outdir, seeds, side=16, subdirs=False, distinct=True):
    "Return a check of the files that the published script writes"

    def check(folder, printed):
        there = {path.relative_to(folder / outdir).as_posix() for path in (folder / outdir).rglob('*.png')}
        top = lambda seed: f'{seed // 1000 * 1000:06d}/' if subdirs else ''
        assert there == {f'{top(seed)}{seed:06d}.png' for seed in seeds}
        found = [np.asarray(Image.open(folder / outdir / name)) for name in sorted(there)]
        assert {image.shape for image in found} == {(side, side, 3)}
        assert not distinct or len({image.tobytes() for image in found}) == len(found)
        assert printed.startswith('model ')

    return check


def generated(outdir='out', network='net.pkl', classes=0, subdirs=False, **change):
    "Return the run of a line of generate.py"
    seeds = change.get('seeds', '0-63').split('-')
    check = images_of(outdir, range(int(seeds[0]), int(seeds[1]) + 1), subdirs=subdirs)
    return Run(change | {'network': network}, put_model(network, classes), check)


def optimal_images(folder, printed):
    "Check that the last step ends on training images, by steps of Euler, within the network's range"
    images_of('evaluation/memorization-n64', range(100_000, 100_004), distinct=False)(folder, printed)
    with zipfile.ZipFile(folder / 'datasets/synthetic-cifar10-32x32-n64.zip') as archive:
        known = {
            np.asarray(Image.open(archive.open(name))).tobytes()
            for name in archive.namelist()
            if name.endswith('.png')
        }
    made = (folder / 'evaluation/memorization-n64').glob('*.png')
    assert sum(np.asarray(Image.open(path)).tobytes() in known for path in made) >= 3
    assert '; euler on 18 levels; ' in printed


def lay_out_optimal(folder):
    write_set(folder / 'datasets/synthetic-cifar10-32x32-n64.zip', pictures(8, (16, 16, 3)))
    put_model('net.pkl')(folder)


GENERATED = {
    'S1 teacher samples': generated(seeds='0-3'),
    'S1 samples of dim 64': generated(
        'evaluation/ddpm-dim64-n64', 'training/ckpt/ddpm-dim64-n64.pkl', seeds='100000-100003'
    ),
    'S1 samples of dim 128': generated(
        'evaluation/ddpm-dim128-n64', 'training/ckpt/ddpm-dim128-n64.pkl', seeds='100000-100003'
    ),
    'S1 samples of the optimal denoiser': Run(
        {'network': 'net.pkl', 'seeds': '100000-100003'}, lay_out_optimal, optimal_images
    ),
    'EDM samples': generated(classes=10, seeds='0-3'),
    'EDM samples on two GPUs': generated(classes=10, seeds='0-5', batch='4'),
    'EDM 18 steps': generated(classes=10, steps='3'),
    'EDM 40 steps': generated(steps='3'),
    'EDM stochastic': generated(classes=10, steps='4'),
    'EDM samples for FID': generated('fid-tmp', classes=10, subdirs=True, seeds='998-1001'),
    'EDM figure 2a reimplementation': generated(steps='4'),
    'EDM figure 2a Heun and its levels': generated(steps='4'),
    'EDM figure 2a schedule and scaling': generated(steps='4'),
}


# dataset


def read_set(path):
    "Return the images and labels of a zip as EDM's own reader finds them"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        labels = json.loads(archive.read('dataset.json'))['labels']
        images = {n: np.asarray(Image.open(archive.open(n))) for n in sorted(names) if n != 'dataset.json'}
    return images, None if labels is None else dict(labels)


def packed(path, images, labels=None, numbers=None):
    "Return a check that a zip holds exactly these images, under the published names"

    def check(folder, printed):
        found, known = read_set(folder / path)
        names = [f'{i // 1000:05d}/img{i:08d}.png' for i in numbers or range(len(images))]
        assert list(found) == names
        for image, expected in zip(found.values(), images):
            assert np.array_equal(image, expected)
        assert known == (None if labels is None else dict(zip(names, labels)))

    return check


def lay_out_samples(folder):
    write_folder(folder / 'out', pictures(5, (32, 32, 3)))


def text(value):
    "Return a string as Python 2 pickled it"
    data = value if isinstance(value, bytes) else value.encode()
    return (b'U' + bytes([len(data)]) if len(data) < 256 else b'T' + struct.pack('<i', len(data))) + data


def batch(images, labels):
    "Return a pickle of Python 2 as CIFAR-10 has five of: data (N, 3072) channels first, a list of labels"
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    shape = b'K' + bytes([len(rows)]) + b'M' + struct.pack('<H', 3072) + b'\x86'
    dtype = (
        b'cnumpy\ndtype\n'
        + text('u1')
        + b'K\x00K\x01\x87R(K\x03'
        + text('|')
        + b'NNN'
        + 2 * (b'J' + b'\xff' * 4)
    )
    array = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + text('b') + b'\x87R'
    array += b'(K\x01' + shape + dtype + b'K\x00tb\x89' + text(rows.tobytes()) + b'tb'
    numbers = b'](' + b''.join(b'K' + bytes([label]) for label in labels) + b'e'
    return b'\x80\x02}(' + text('labels') + numbers + text('data') + array + b'u.'


CIFAR, CIFAR_LABELS = pictures(15, (32, 32, 3), 1), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 0]


def lay_out_cifar(folder):
    path = folder / 'downloads/cifar10/cifar-10-python.tar.gz'
    path.parent.mkdir(parents=True)
    with tarfile.open(path, 'w:gz') as archive:
        for i in (5, 1, 2, 3, 4):  # in any order
            part = slice(3 * i - 3, 3 * i)
            data = batch(CIFAR[part], CIFAR_LABELS[part])
            entry = tarfile.TarInfo(f'cifar-10-batches-py/data_batch_{i}')
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


MNIST = pictures(6, (28, 28), 2)


def lay_out_mnist(folder):
    numbers = lambda *values: b''.join(struct.pack('>i', value) for value in values)
    for name, data in (
        ('images-idx3', numbers(2051, 6, 28, 28) + MNIST.tobytes()),
        ('labels-idx1', numbers(2049, 6) + bytes([5, 0, 4, 1, 9, 2])),
    ):
        (folder / f'train-{name}-ubyte.gz').write_bytes(gzip.compress(data))


def lay_out_faces(folder):
    write_folder(folder / 'downloads/ffhq/images1024x1024', pictures(3, (96, 96, 3)), '{:05d}.png')


def lay_out_imagenet(folder):
    for i, name in enumerate(('n01440764', 'n02102040')):
        place = folder / 'downloads/imagenet/ILSVRC/Data/CLS-LOC/train' / name
        write_folder(place, pictures(2, (70, 90 + i, 3), i), name + '_{}.png')


def resized(images, side, crop=False):
    "Return images as Pillow resizes them, the centred square first"
    found = []
    for image in images:
        if crop:
            height, width = image.shape[:2]
            rows = slice((height - min(height, width)) // 2, (height + min(height, width)) // 2)
            columns = slice((width - min(height, width)) // 2, (width + min(height, width)) // 2)
            image = image[rows, columns]
        found.append(np.asarray(Image.fromarray(image).resize((side, side), Image.LANCZOS)))
    return found


IMAGENET = [*pictures(2, (70, 90, 3), 0), *pictures(2, (70, 91, 3), 1)]


def lay_out_lsun(folder):
    (folder / 'LSUN/raw/cat_lmdb').mkdir(parents=True)
    (folder / 'LSUN/raw/cat_lmdb/data.mdb').write_bytes(b'')


PACKED = {
    'S1 data set of samples': Run(
        {'max_images': '4'},
        lay_out_samples,
        packed('datasets/synthetic-cifar10-32x32-n128.zip', pictures(5, (32, 32, 3))[:4]),
    ),
    'EDM data set of CIFAR-10': Run(
        {}, lay_out_cifar, packed('datasets/cifar10-32x32.zip', CIFAR, CIFAR_LABELS)
    ),
    'EDM data set of MNIST': Run(
        {},
        lay_out_mnist,
        packed('datasets/mnist-32x32.zip', np.pad(MNIST, [(0, 0), (2, 2), (2, 2)]), [5, 0, 4, 1, 9, 2]),
    ),
    'EDM data set of FFHQ': Run(
        {}, lay_out_faces, packed('datasets/ffhq-64x64.zip', resized(pictures(3, (96, 96, 3)), 64))
    ),
    'EDM data set of ImageNet': Run(
        {},
        lay_out_imagenet,
        packed('datasets/imagenet-64x64.zip', resized(IMAGENET, 64, crop=True), [0, 0, 1, 1]),
    ),
    'EDM data set of LSUN': Run(
        {'dest': 'lsun.zip'}, lay_out_lsun, refused='the package lmdb: pip install lmdb'
    ),
}


# sscd


@functools.cache
def descriptor(backbone):
    "Return the bytes of a descriptor that lies where the study's own code keeps its large one"
    import tempfile

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return SSCD(backbone, dims=16).save(Path(folder, 'small.safetensors')).read_bytes()


def described(images, features, backbone='small', shape=(32, 32)):
    "Return the run of a line that describes images; the small descriptor knows grey ones"

    def prepare(folder):
        (folder / 'pretrainedmodels').mkdir()
        (folder / 'pretrainedmodels/sscd_disc_large.torchscript.pt').write_bytes(descriptor(backbone))
        write = write_set if images.endswith('.zip') else write_folder
        write(folder / images, pictures(3, shape))

    def check(folder, printed):
        with np.load(folder / features) as file:
            found = file['features']
        assert found.shape == (3, 16) and found.dtype == np.float32
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert '3 images' in printed

    return Run({}, prepare, check)


def scored(source, target, lines):
    "Return the run of a line that compares two files of the published script: `features` alone"

    def prepare(folder):
        (folder / 'evaluation').mkdir()
        one = np.eye(5, 8, dtype=np.float32)
        np.savez(folder / f'evaluation/{source}.npz', features=one)
        np.savez(folder / f'evaluation/{target}.npz', features=one[[0, 1, 3, 3, 3]])

    def check(folder, printed):
        assert [line.split(' (')[0] for line in printed.splitlines()[1:]] == lines

    return Run({}, prepare, check)


TRAINING = 'sscd-training-dataset-synthetic-cifar10-32x32-n64'
SCORES = {
    'S1 features of dim 64': described(
        'evaluation/ddpm-dim64-n64', 'evaluation/sscd-dim64-n64.npz', 'resnet50', (32, 32, 3)
    ),
    'S1 features of dim 128': described('evaluation/ddpm-dim128-n64', 'evaluation/sscd-dim128-n64.npz'),
    'S1 features of the training set': described(
        'datasets/synthetic-cifar10-32x32-n64.zip', f'evaluation/{TRAINING}.npz'
    ),
    'S1 features of the optimal denoiser': described(
        'evaluation/memorization-n64', 'evaluation/sscd-memorization-n64.npz'
    ),
    'S1 features of DDPM v4': described('samples/ddpmv4', 'evaluation/sscd-ddpmv4.npz'),
    'S1 features of DDPM v6': described('samples/ddpmv6', 'evaluation/sscd-ddpmv6.npz'),
    'S1 RP score of two widths': scored('sscd-dim128-n64', 'sscd-dim64-n64', ['RP score = 0.6000']),
    'S1 RP score with the optimal denoiser': scored(
        'sscd-dim128-n64', 'sscd-memorization-n64', ['RP score = 0.6000']
    ),
    'S1 RP score of DDPM v4 and v6': scored('sscd-ddpmv4', 'sscd-ddpmv6', ['RP score = 0.6000']),
    'S1 GL score': scored('sscd-dim128-n64', TRAINING, ['M score = 0.6000', 'GL score = 0.4000']),
}


# fid


def eight_features(device):
    "Return a stand-in for Inception: eight pixels of each image, in steps of grey levels"
    return lambda images: images.flatten(1)[:, :8]


def stand_in(patch):
    "Put the stand-in in the place of Inception, and 50,000 images are four"
    patch.setattr('difflow.features.fidelity._inception', eight_features)
    random_part = fidelity._random_part
    patch.setattr(fidelity, '_random_part', lambda images, count, seed: random_part(images, 4, seed))


def pixels(images):
    "Return what the stand-in returns of images (N, H, W, C)"
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)[:, :8]
    return flat.astype(np.float32) / np.float32(127.5) - 1


def lay_out_distances(folder):
    write_folder(folder / 'fid-tmp/000000', pictures(4, (8, 8, 3), 5))
    np.savez(folder / 'ref.npz', mu=np.zeros(8), sigma=np.eye(8))


def check_distance(folder, printed):
    "Check the number against the formula of the published script, with SciPy's square root"
    found = pixels(pictures(4, (8, 8, 3), 5)).astype(np.float64)
    mu, sigma = found.mean(0), np.cov(found, rowvar=False)
    root = scipy.linalg.sqrtm(sigma @ np.eye(8)).real
    expected = np.square(mu).sum() + np.trace(sigma + np.eye(8) - 2 * root)
    assert abs(float(printed.splitlines()[-1]) - expected) < 1e-4


def referred(data, dest):
    "Return the run of a line that writes reference statistics"
    images = pictures(5, (8, 8, 3), 6)

    def check(folder, printed):
        with np.load(folder / dest) as file:
            mu, sigma = file['mu'], file['sigma']
        assert (mu.dtype, mu.shape, sigma.dtype, sigma.shape) == (np.float64, (8,), np.float64, (8, 8))
        assert np.allclose(mu, pixels(images).mean(0), atol=1e-6)
        assert np.allclose(sigma, np.cov(pixels(images), rowvar=False), atol=1e-6)

    return Run({}, lambda folder: write_set(folder / data, images), check, smaller=stand_in)


DISTANCES = {
    'EDM FID': Run({'ref': 'ref.npz'}, lay_out_distances, check_distance, smaller=stand_in),
    'EDM reference statistics': referred('datasets/my-dataset.zip', 'fid-refs/my-dataset.npz'),
    'EDM reference statistics of CIFAR-10': referred(
        'datasets/cifar10-32x32.zip', 'fid-refs/cifar10-32x32.npz'
    ),
}
RUNS = GENERATED | PACKED | SCORES | DISTANCES
