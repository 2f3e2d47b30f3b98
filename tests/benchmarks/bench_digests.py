"""The digest of 50,000 images in a zip or a folder, read and remembered, against reading every pixel.

Run with `pytest tests/benchmarks/bench_digests.py -s`."""

import io
import os
import zipfile
from time import process_time

import numpy as np
import pytest
from PIL import Image

from difflow import load_images
from difflow.data import images_digest

COUNT = 50_000


def png(rng):
    "Encode a picture of 32x32 in colour as quickly as Pillow can"
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(out, 'PNG', compress_level=0)
    return out.getvalue()


def packed(home, contents):
    with zipfile.ZipFile(home / 'images.zip', 'w') as archive:
        for i in range(COUNT):
            archive.writestr(f'{i // 1000:05d}/img{i:08d}.png', contents[i % len(contents)])
    return home / 'images.zip'


def spread(home, contents):
    for i in range(COUNT):
        if i % 1000 == 0:
            (home / f'images/{i // 1000:05d}').mkdir(parents=True)
        (home / f'images/{i // 1000:05d}/img{i:08d}.png').write_bytes(contents[i % len(contents)])
    return home / 'images'


def timed(work, *arguments):
    "CPU seconds: other programs on the machine do not count"
    start = process_time()
    result = work(*arguments)
    return result, process_time() - start


@pytest.mark.parametrize(('write', 'limit'), [(packed, 0.5), (spread, 1)])  # a folder: 50,000 calls of stat
def test_digest_of_50000_images(tmp_path, monkeypatch, write, limit):
    monkeypatch.setenv('DIFFLOW_CACHE', str(tmp_path / 'cache'))
    rng = np.random.default_rng(0)
    place = write(tmp_path, [png(rng) for _ in range(500)])
    images = load_images(place)
    first, seconds = timed(images_digest, images)
    again, remembered = timed(images_digest, load_images(place))
    _, pixels = timed(lambda: [images.pixels(i) for i in range(0, COUNT, 50)])
    print(
        f'\n{write.__name__}: {seconds:.2f} s, remembered {remembered:.2f} s, '
        f'{seconds / remembered:.0f} times faster; decoding all of it {50 * pixels:.1f} s'
    )
    assert first == again and len(os.listdir(tmp_path / 'cache/digests')) == 1
    assert seconds < 10 and remembered < limit < 50 * pixels
