"""Preparing images for SSCD, by image with Pillow as published and in batches.

Run with `pytest tests/benchmarks/bench_sscd.py -s`."""

import os
import shutil
from time import perf_counter

import pytest
import torch

from difflow import SSCD, load_images
from difflow.data import Preprocess, save_images
from difflow.data.resizing import _IMAGENET
from difflow.features.descriptors import _Extraction

COUNT = 64  # images, the published batch
CORES = len(os.sched_getaffinity(0))


def published(size):
    "Return the published route: per image, by Pillow, stacked"
    from torchvision import transforms as T

    route = T.Compose([T.ToPILImage(), T.Resize(size), T.ToTensor(), T.Normalize(*_IMAGENET.values())])
    return lambda images: torch.stack([route(image) for image in images])


def compare(name, published, ours, count, repeats=9):
    """Print and return how many times faster ours is by the clock on all cores; the published route is
    fastest on one: it has nothing to share out"""
    works = {'published': (1, published), 'ours on one core': (1, ours), f'ours on {CORES}': (CORES, ours)}
    before, times = torch.get_num_threads(), dict.fromkeys(works, float('inf'))
    try:
        for _ in range(repeats):  # in turns, so that a busy machine slows them alike
            for label, (threads, work) in works.items():
                torch.set_num_threads(threads)
                start = perf_counter()
                work()
                times[label] = min(times[label], perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    slow, alone, fast = times.values()
    print(
        f'\n{name}: '
        + ', '.join(f'{label} {t / count * 1e3:.2f} ms' for label, t in times.items())
        + f': {slow / alone:.1f} x and {slow / fast:.1f} x'
    )
    return slow / fast


@pytest.mark.parametrize(
    'side, channels, resize, size, wanted',
    [  # 4 x: CIFAR-10's images, the study's case, and grey ones
        (32, 3, 'square-320', (320, 320), 4),
        (28, 1, 'square-320', (320, 320), 4),
        (28, 1, 'short-288', 288, 4),
        (32, 3, 'short-288', 288, 4),
        (28, 3, 'short-288', 288, 2.5),
        (64, 3, 'short-288', 288, 1.5),
    ],
)  # torch's own resize is not Pillow's for the last two
def test_preprocessing(side, channels, resize, size, wanted):
    images = torch.randint(0, 256, (COUNT, channels, side, side), dtype=torch.uint8)
    colour = images.expand(-1, 3, -1, -1)  # the published route fails on grey images; it gets them as RGB
    prepare, route = Preprocess(resize), published(size)
    buffer = torch.empty_like(
        prepare(images)
    )  # as in `sscd_features`, which fills one buffer again and again
    assert torch.equal(buffer.copy_(prepare(images)), route(colour))
    ratio = compare(
        f'{channels} x {side} -> {buffer.shape[-1]}',
        lambda: route(colour),
        lambda: prepare(images, out=buffer),
        COUNT,
    )
    assert ratio >= (wanted if CORES > 1 else wanted / 2)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_preprocessing_of_files(kind, tmp_path):
    "The published default on files: both routes decode 128 PNGs of 32 pixels in batches of 64"
    from PIL import Image
    from torchvision import transforms as T

    save_images(
        torch.randint(0, 256, (2 * COUNT, 3, 32, 32), dtype=torch.uint8),
        tmp_path / 'set',
        [f'{i:06d}.png' for i in range(2 * COUNT)],
    )
    files, place = sorted((tmp_path / 'set').iterdir()), tmp_path / 'set'
    if kind == 'zip':
        place = shutil.make_archive(str(tmp_path / 'packed'), 'zip', place)
    route = T.Compose([T.Resize((320, 320)), T.ToTensor(), T.Normalize(*_IMAGENET.values())])
    model = SSCD('small', 8, widths=(8, 8, 8), channels=3, preprocess=Preprocess('square-320'))
    job = _Extraction(model, load_images(place), COUNT)

    def by_pillow():
        for i in range(0, 2 * COUNT, COUNT):
            batch = torch.stack([route(Image.open(f)) for f in files[i : i + COUNT]])
        return batch

    def ours():
        for start in job.starts:
            batch = job.prepare(start)
        return batch

    assert torch.equal(ours(), by_pillow()) and not job.images.decoded
    ratio = compare(
        f'{kind} of PNG files, 3 x 32 -> 320, with the decoding', by_pillow, ours, 2 * COUNT, repeats=5
    )
    assert ratio >= 2.5  # the decoding is the same in both, so less than the 4 x of pixels alone
