"""One streamed product against two broadcast passes in float64, and against the bare products; sets on disk.

Run with `pytest tests/benchmarks/bench_optimal.py -s`."""

from time import process_time

import numpy as np
import pytest
import torch

from difflow import OptimalDenoiser, load_images

COUNT, BATCH, SHAPE, SLICE = 50_000, 64, (3, 32, 32), 512
SIGMAS = (0.002, 0.1, 1.0, 3.0, 10.0, 30.0, 80.0)


def smooth_images(count):
    "Make uint8 images with the spectrum of photographs, roughly: coarse patterns and a little grain"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3) // 8 * 7
    return (
        images
        + torch.randint(0, 30, (1024, *SHAPE), generator=generator, dtype=torch.uint8).repeat(
            count // 1024 + 1, 1, 1, 1
        )[:count]
    )


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def images():
    return smooth_images(COUNT)


@pytest.fixture(scope='module')
def denoiser(images):
    return OptimalDenoiser(images)


def seconds(work, times=2):
    "CPU seconds of one thread, the best of some"
    taken = []
    for _ in range(times):
        start = process_time()
        result = work()
        taken.append(process_time() - start)
    return min(taken), result


def noisy(images, sigma):
    generator = torch.Generator().manual_seed(1)
    x0 = images[:BATCH].float() / 127.5 - 1
    return x0 + sigma * torch.randn(x0.shape, generator=generator)


def published(images, x, sigma, chunk=BATCH):
    "Two passes over the set, differences broadcast in float64: the largest exponent first, the sums then"
    x, chunks = x.double()[:, None], [part.double() / 127.5 - 1 for part in images.split(chunk)]
    exponent = lambda y: -(x - y[None]).square().sum((2, 3, 4)) / (2 * sigma**2)
    best = torch.stack([exponent(y).amax(1) for y in chunks]).amax(0)
    total, sums = 0.0, 0.0
    for y in chunks:
        weights = (exponent(y) - best[:, None]).exp()
        total, sums = total + weights.sum(1), sums + (weights[:, :, None, None, None] * y[None]).sum(1)
    return sums / total[:, None, None, None]


@pytest.fixture(scope='module')
def floats(images):
    return images.flatten(1).float()


def bare_products(floats, x):
    "The two matrix products alone, on data in float32 already (four times the memory) and known weights"
    rows, weights = x.flatten(1), torch.rand(len(x), len(floats))
    return rows @ floats.T, weights @ floats


def test_beside_the_published_algorithm(images, denoiser):
    x, sigma = noisy(images, 3.0), 3.0
    slice_denoiser = OptimalDenoiser(images[:SLICE])
    slow, expected = seconds(lambda: published(images[:SLICE], x, sigma), 1)
    torch.testing.assert_close(slice_denoiser(x, sigma).double(), expected, atol=1e-5, rtol=0)
    fast, _ = seconds(lambda: denoiser(x, sigma))
    whole = slow * COUNT / SLICE
    print(
        f'\n{COUNT} images {SHAPE}, batch {BATCH}: {fast:.2f} s; published {slow:.2f} s for {SLICE} of them, '
        f'so {whole:.0f} s: {whole / fast:.0f} x'
    )
    assert whole / fast >= 150


def test_beside_the_bare_products_at_every_sigma(images, floats, denoiser):
    ratios = {}
    for sigma in SIGMAS:
        x = noisy(images, sigma)
        bare, ours = (
            seconds(lambda x=x: bare_products(floats, x), 3)[0],
            seconds(lambda x=x, sigma=sigma: denoiser(x, sigma), 3)[0],
        )
        ratios[sigma] = ours / bare
        print(f'\nsigma {sigma:6}: {ours:.2f} s, bare products {bare:.2f} s, {ours / bare:.2f} x', end='')
    assert max(ratios.values()) <= 1.5


MEMORY = """if True:
    import sys
    import torch
    sys.path.insert(0, 'tests/benchmarks')
    from bench_optimal import smooth_images, noisy, COUNT
    from difflow import OptimalDenoiser
    def status(name):
        lines = open('/proc/self/status')
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
    torch.set_num_threads(1)
    images = smooth_images(COUNT)
    x = noisy(images, 3.).repeat(int(sys.argv[1]), 1, 1, 1)
    x[:8] @ x[0].mT # the library of the products is loaded
    open('/proc/self/clear_refs', 'w').write('5') # the peak so far is forgotten
    before = status('VmRSS')
    OptimalDenoiser(images)(x, 3.)
    print(status('VmHWM') - before)"""


@pytest.mark.parametrize('times', [1, 8])
def test_memory_beyond_the_pixels(times, python, root):
    "Peak above the pixels and the noisy images, with the making of the denoiser"
    used = float(python(MEMORY, str(times), cwd=root, env={'OMP_NUM_THREADS': '1'}))
    print(f'\nbatch {BATCH * times}: {used:.0f} MiB more')
    assert used < 300


@pytest.fixture(scope='module')
def on_disk(images, tmp_path_factory):
    path = tmp_path_factory.mktemp('disk') / 'images.npy'
    np.save(path, images.numpy())
    return load_images(path)


@pytest.mark.parametrize('batch', [1, BATCH])
def test_from_disk_beside_memory(images, denoiser, on_disk, batch):
    "Throughput of a set that the file cache holds, in that of the same set in memory, the same bits"
    disk, x = OptimalDenoiser(on_disk), noisy(images, 1.0)[:batch]
    taken = {d: [] for d in (denoiser, disk)}
    for _ in range(4):
        for each in taken:
            taken[each].append(seconds(lambda each=each: each(x, 1.0), 1)[0])
    memory, streamed = (min(taken[d]) for d in (denoiser, disk))
    print(f'\nbatch {batch}: {memory:.2f} s in memory, {streamed:.2f} s from disk: {memory / streamed:.2f}')
    assert torch.equal(disk(x, 1.0), denoiser(x, 1.0)) and memory / streamed > 0.5


def test_with_an_index(images, denoiser):
    "CPU seconds with an index of 128 of 3,072 components, of images that are not in the set"
    taken, indexed = seconds(lambda: OptimalDenoiser(images, index=128), 1)
    print(
        f'\nmade in {taken:.1f} s, without an index in {seconds(lambda: OptimalDenoiser(images), 1)[0]:.1f}'
    )
    x0 = smooth_images(COUNT + BATCH)[-BATCH:].float() / 127.5 - 1
    for sigma in (0.03, 0.3, 1.0, 3.0):
        x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
        ours, plain = (seconds(lambda d=d, x=x, s=sigma: d(x, s)) for d in (indexed, denoiser))
        print(f'sigma {sigma:4}: {plain[0]:.2f} s of all, {ours[0]:.2f} s: {plain[0] / ours[0]:.1f} x')
        assert (ours[1] - plain[1]).abs().max() < 3e-6
