"""Patch denoisers against one pass of squared differences, and against the bare product of all windows.

Run with `pytest tests/benchmarks/bench_patches.py -s`."""

from time import process_time

import pytest
import torch

from difflow import PatchDenoiser, normal

COUNT, BATCH, SHAPE, PATCH = 5000, 16, (3, 32, 32), 7
PIXELS, PLACES = 3072, 1024
SIGMAS = (0.1, 1.0, 2.0, 10.0)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def images():
    "Images with the spectrum of photographs, roughly: coarse patterns and a little grain"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 226, (COUNT, 3, 4, 4), generator=generator, dtype=torch.uint8)
    grain = torch.randint(0, 30, (COUNT, *SHAPE), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3) + grain


def in_turns(*works, times=3):
    "CPU seconds of each, the best of some, one after the other"
    taken = [[] for _ in works]
    for _ in range(times):
        for work, best in zip(works, taken):
            start = process_time()
            work()
            best.append(process_time() - start)
    return [min(best) for best in taken]


def noisy(images, sigma):
    return images[:BATCH] / 127.5 - 1 + sigma * normal((BATCH, *SHAPE), 1)


def squared_differences(x, y, block):
    "Sum (x - y)^2 for all pairs, block by block in one buffer: the pass that every such denoiser needs"
    out, room = torch.empty(len(x), len(y)), torch.empty(block, PIXELS)
    for i in range(0, len(y), block):
        part = y[i : i + block]
        for b, row in enumerate(x):
            gap = torch.sub(part, row, out=room[: len(part)])
            torch.linalg.vecdot(gap, gap, out=out[b, i : i + block])
    return out


def test_windows_at_their_own_place(images):
    y, denoiser, seen = (images / 127.5 - 1).flatten(1), PatchDenoiser(images, PATCH), {}
    for sigma in SIGMAS:
        x = noisy(images, sigma)
        passes = [
            lambda block=block, x=x: squared_differences(x.flatten(1), y, block) for block in (16, 64, 128)
        ]
        ours, *bare = in_turns(lambda x=x, sigma=sigma: denoiser(x, sigma), *passes)
        seen[sigma] = ours / min(bare)
        print(
            f'\nsigma {sigma:4}: {ours:.2f} s, squared differences {min(bare):.3f} s: {seen[sigma]:.1f} x',
            end='',
        )
    print()
    assert max(seen.values()) < 16


def test_windows_of_all_places(images):
    "On 8 of the images; the time grows with their number"
    few = images[:8]
    windows = torch.randn(PATCH**2 * 3, len(few) * PLACES)
    queries, denoiser, seen = torch.randn(BATCH * PLACES, len(windows)), PatchDenoiser(few, PATCH, True), {}
    bare = {dtype: (queries.to(dtype), windows.to(dtype)) for dtype in (torch.float32, torch.float64)}
    for sigma in SIGMAS:
        x = noisy(images, sigma)
        products = [lambda a=a, b=b: [part @ b for part in a.split(2048)] for a, b in bare.values()]
        ours, single, double = in_turns(lambda x=x, sigma=sigma: denoiser(x, sigma), *products, times=2)
        seen[sigma] = ours / single
        print(
            f'\nsigma {sigma:4}: {ours:.2f} s, product {single:.2f} s in float32: {seen[sigma]:.2f} x', end=''
        )
        print(f', {double:.2f} s in float64: {ours / double:.2f} x', end='')
    print()
    assert max(seen.values()) < 5


MEMORY = """if True:
    import sys
    import torch
    from difflow import PatchDenoiser, normal
    def status(name):
        lines = open('/proc/self/status')
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (int(sys.argv[2]), 3, 32, 32), dtype=torch.uint8)
    x = normal((16, 3, 32, 32))
    x[:8] @ x[0].mT # the library of the products is loaded
    open('/proc/self/clear_refs', 'w').write('5') # the peak so far is forgotten
    before = status('VmRSS')
    PatchDenoiser(images, 7, sys.argv[1] == 'anywhere')(x, 1.)
    print(status('VmHWM') - before)"""


@pytest.mark.parametrize('kind, count', [('own', 5000), ('anywhere', 8)])
def test_memory_beyond_the_pixels(kind, count, python, root):
    used = float(python(MEMORY, kind, str(count), cwd=root, env={'OMP_NUM_THREADS': '1'}))
    print(f'\n{kind}, {count} images: {used:.0f} MiB more')
    assert used < 1000
