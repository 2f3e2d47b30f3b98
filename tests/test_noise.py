"""Noise: Philox against an independent implementation and published vectors, addressing, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difflow import noise, normal
from difflow.noise import (
    ImageStreams,
    Stream,
    _cuda_normal,
    _generator_normal,
    _philox,
    integers_on_device,
    uniform,
)
from golden import FIXTURES

word = st.integers(0, 2**32 - 1)
examples = settings(deadline=None, max_examples=60)


def philox_by_hand(counter, key):
    "Philox4x32-10 in Python integers, as Salmon et al. (2011) describe it."
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b % 2**32, (a >> 32) ^ x3 ^ k1, a % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


def box_muller_by_hand(words):
    "Four normal numbers from four words, in float64."
    u = (np.array(words, dtype=np.float64) + 0.5) / 2**32
    r, a = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
    return np.stack([r * np.cos(a), r * np.sin(a)], -1).ravel()


@pytest.mark.parametrize(
    'counter, key, published',
    [
        ([0] * 4, [0] * 2, '6627e8d5 e169c58d bc57ac4c 9b00dbd8'),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, '408f276d 41c83b0e a20bc7c6 6d5451fd'),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            'd16cfe09 94fdcceb 5001e420 24126ea1',
        ),
    ],
)
def test_random123_vectors(counter, key, published):
    words = _philox(torch.tensor(counter), torch.tensor(key)).tolist()
    assert ' '.join(f'{word:08x}' for word in words) == published


@examples
@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=5), st.tuples(word, word))
def test_philox_is_the_published_function(counters, key):
    found = _philox(torch.tensor(counters), torch.tensor(key))
    assert found.tolist() == [philox_by_hand(counter, key) for counter in counters]


def test_philox_broadcasts_and_leaves_its_arguments():
    counter, key = torch.arange(12).reshape(3, 4), torch.arange(10).reshape(5, 1, 2)
    found = _philox(counter, key)
    assert found.shape == (5, 3, 4) and found[4, 2].tolist() == philox_by_hand([8, 9, 10, 11], [8, 9])
    assert counter.tolist() == torch.arange(12).reshape(3, 4).tolist()
    assert torch.equal(_philox(counter.T.contiguous().T, key), found)


@pytest.mark.parametrize(
    'counter, key, message',
    [
        (torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 'counter must be int64'),
        (torch.zeros(4), torch.zeros(2, dtype=torch.int64), 'float32'),
        (torch.zeros(4, dtype=torch.int64), torch.tensor([0, 2**32]), '4294967296'),
        (
            torch.zeros(4, dtype=torch.int64),
            torch.tensor([-1, 0]),
            'key words must be in 0..4294967295, got -1',
        ),
    ],
)
def test_philox_refuses(counter, key, message):
    with pytest.raises(ValueError, match=message):
        _philox(counter, key)


@examples
@given(st.integers(0, 2**64 - 1), word, word, word, st.integers(1, 23))
def test_address_layout(seed, step, stream, image, size):
    "Key = seed (low, high), counter = (block, image, stream, step), four numbers a block in order."
    key = seed % 2**32, seed >> 32
    words = [philox_by_hand((block, image, stream, step), key) for block in range((size + 3) // 4)]
    found = normal((1, size), seed, step, stream, [image])[0]
    by_hand = np.concatenate([box_muller_by_hand(block) for block in words])[:size]
    np.testing.assert_allclose(found, by_hand, atol=2e-6)
    found = uniform((1, size), [seed], step, stream, [image])[0]
    np.testing.assert_allclose(found, (np.concatenate(words)[:size] + 0.5) / 2**32, atol=6e-8)


@examples
@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from([(5,), (1, 3, 3), (3, 8, 8), ()]), st.booleans())
def test_any_batch_split(count, cut, rest, many):
    cut, seeds = min(cut, count), list(range(40, 40 + count))
    whole = normal((count, *rest), seeds if many else 3)
    parts = [
        normal((j - i, *rest), seeds[i:j] if many else 3, images=None if many else range(i, j))
        for i, j in ((0, cut), (cut, count))
    ]
    assert whole.dtype == torch.float32 and torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize('blocks', [1, 3, 100, 1 << 20])
def test_slabs_do_not_matter(monkeypatch, blocks):
    want = normal((7, 3, 8, 8), seeds=range(7))
    monkeypatch.setattr(noise, '_BLOCKS_AT_ONCE', blocks)
    assert torch.equal(normal((7, 3, 8, 8), seeds=range(7)), want)


def test_streams_of_one_purpose_are_apart():
    names = {name: number for name, number in vars(Stream).items() if name.isupper()}
    assert len(names) == 26 and all(isinstance(number, int) for number in names.values())
    drawn = {number: tuple(normal((1, 2), 5, stream=number)[0].tolist()) for number in names.values()}
    assert len(set(drawn.values())) == len(set(names.values())) == 11


@pytest.mark.parametrize('numbers', [range(4), range(7, 1, -3), range(0), [], [3, 0, 2**62], (5,)])
def test_integers_on_device(numbers):
    found = integers_on_device(numbers, 'cpu')
    assert found.dtype == torch.int64 and found.tolist() == list(numbers)


def test_prefix():
    "A smaller image is the beginning of a larger one."
    assert torch.equal(normal((2, 10), 5), normal((2, 33), 5)[:, :10])


@pytest.mark.parametrize('seeds', [[4, 5], (4, 5), range(4, 6), np.array([4, 5]), torch.tensor([4, 5])])
def test_kinds_of_seeds(seeds):
    assert torch.equal(normal((2, 3), seeds), normal((2, 3), [4, 5]))
    assert torch.equal(normal((1, 3), np.int64(4)), normal((1, 3), torch.tensor(4)))


def test_empty_batches():
    for seeds in (0, []):
        assert normal((0, 3, 4), seeds).shape == (0, 3, 4)
    assert normal((2, 0)).shape == (2, 0) and _generator_normal((0, 3), []).shape == (0, 3)


def test_extreme_words(monkeypatch):
    "The first and the last word give finite normal numbers and uniform numbers inside (0, 1)."
    ends = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr(noise, '_rounds', lambda *a: (ends, ends.flip(1), ends, ends))
    n, u = normal((1, 8)), uniform((1, 8))
    assert n.isfinite().all() and n.abs().max() < 6.77
    assert 0 < u.min() and u.max() < 1


def test_no_state():
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    normal((4, 3, 8, 8))
    _generator_normal((2, 3), [1, 2])
    assert torch.equal(torch.rand(3), want)


def test_uniform_distribution():
    "Kolmogorov-Smirnov distance of 200,000 numbers below the 0.001 critical value."
    u = np.sort(uniform((5, 40_000), seeds=8).ravel())
    assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 1.95 / len(u) ** 0.5


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(seeds=-1), r'seeds must be an integer in 0\.\.2\*\*64-1, got -1'),
        (dict(seeds=2**64), '18446744073709551616'),
        (dict(seeds=1.0), 'got 1.0'),
        (dict(seeds=True), 'got True'),
        (dict(seeds='12'), "got '12'"),
        (dict(seeds=[1]), 'one for each of 2 images, got 1'),
        (dict(seeds=[1, None]), 'got None'),
        (dict(seeds=torch.tensor([0.5, 1])), 'got 0.5'),
        (dict(step=-1), r'step must be an integer in 0\.\.2\*\*32-1'),
        (dict(step=2**32), '4294967296'),
        (dict(step=0.0), 'got 0.0'),
        (dict(stream=-3), 'stream must be .* got -3'),
        (dict(images=[1, 2, 3]), 'images must be one for each of 2 images, got 3'),
        (dict(images=4), 'got 4'),
        (dict(images=[0, 2**32]), r'images must be an integer in 0\.\.2\*\*32-1'),
        (dict(shape=()), 'shape'),
        (dict(shape=5), 'shape'),
    ],
)
@pytest.mark.parametrize('draw', [normal, uniform])
def test_bad_address(draw, bad, message):
    with pytest.raises(ValueError, match=message):
        draw(**(dict(shape=(2, 3)) | bad))


def test_edm_published_noise():
    published = np.load(FIXTURES / 'edm_stacked_noise.npz')['stacked_noise']
    assert np.array_equal(_generator_normal((3, 3, 4, 4), [0, 1, 100000]), published)
    assert np.array_equal(_generator_normal((1, 3, 4, 4), [2**32 + 100000]), published[2:])
    first = _generator_normal((2, 3, 32, 32), [0, 100000]).flatten(1)[:, :3]
    published = [[-1.12584, -1.15236, -0.250579], [-0.706041, -0.089824, 0.140101]]
    np.testing.assert_allclose(first, published, atol=1e-5)


@pytest.mark.parametrize('seeds', [0, [0], [0, -1], [0, 2**64]])
def test_edm_bad_seeds(seeds):
    with pytest.raises(ValueError, match='seeds must be'):
        _generator_normal((2, 3), seeds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_gives_the_same_numbers():
    for seeds in (7, range(4)):
        on_gpu = normal((4, 3, 32, 32), seeds, device='cuda')
        assert (on_gpu.cpu() - normal((4, 3, 32, 32), seeds)).abs().max() < 1e-5
        on_gpu = uniform((4, 3, 32, 32), seeds, device='cuda')
        assert torch.equal(on_gpu.cpu(), uniform((4, 3, 32, 32), seeds))


# CUDA's stream: numbers that GPUs printed in public threads, to their four digits

PRINTED = {  # where: seed, threads of the GPU (None where it does not matter), shape, {index: numbers}
    "Triton's tutorials": (
        0,
        None,
        (4, 8),
        {
            0: [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284],
            24: [0.0697, -0.0074, 1.8969, 0.6878, -0.0779, -0.8373, 1.3506, -0.2879],
        },
    ),
    'pytorch issue 79496': (10, None, (3,), {0: [-0.1029, 1.6810, -0.2708]}),
    'pytorch issue 143086': (1, None, (3,), {0: [-0.2963, 2.6764, -0.1408]}),
    'pytorch issue 158398': (
        42,
        28 * 1536,
        (1, 64, 2048),
        {
            0: [0.1940, 2.1614, -0.1721],
            2045: [1.4540, -2.7733, -0.8932, -0.4574, 0.8063, 0.1580],
            4093: [0.1124, 0.2769, -1.2535, 1.1346, -0.6329, -0.9147],
            131072 - 6144: [-0.4861, 0.3358, 1.0578],
            131072 - 4099: [-0.7282, 0.5087, 0.1318, 0.7881, 0.8339, -1.1424],
            131069: [-0.4841, 1.2850, -0.0282],
        },
    ),
}


@pytest.mark.parametrize('where', PRINTED)
def test_cuda_numbers_are_those_that_gpus_printed(where):
    seed, threads, shape, printed = PRINTED[where]
    found = _cuda_normal((1, *shape), [seed], threads=threads).flatten()
    for index, numbers in printed.items():
        assert found[index : index + len(numbers)].tolist() == pytest.approx(numbers, abs=6e-5)


def test_cuda_numbers_of_a_gpu_with_48_processors():
    "normal_(5, sqrt(5)) of 100,000 numbers on an RTX A4000, 48 x 1536 threads (pytorch issue 97097)."
    found = 5 + 5**0.5 * _cuda_normal((1, 1000, 100), [14], threads=48 * 1536)[0]
    assert found[0, :3].tolist() == pytest.approx([2.8731, 5.2727, 2.9889], abs=1e-4)
    assert found[-1, :3].tolist() == pytest.approx([2.7337, 2.2106, 7.7815], abs=1e-4)
    assert found[-1, -3:].tolist() == pytest.approx([8.2207, 6.5395, 4.2604], abs=1e-4)


@examples
@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.sampled_from([1, 7, 256, 300, 700]), st.booleans())
def test_cuda_layout_by_hand(seed, calls, size, double):
    "Thread i: counter (call, 0, i, 0), key (seed, 0); of its block only the first number is used."
    dtype = torch.float64 if double else torch.float32
    found = _cuda_normal((1, size), [seed], 4 * calls, dtype)[0]
    for i in (0, size - 1):
        w = philox_by_hand([calls, 0, i, 0], [seed, 0])
        u, v = (w[0] + 0.5) / 2**32, (w[1] + 0.5) / 2**32
        if double:
            u, v = ((w[j] ^ w[j + 1] << 21) / 2**53 + 2**-54 for j in (0, 2))
        by_hand = np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v)
        assert found[i].item() == pytest.approx(by_hand, abs=1e-12 if double else 4e-6)


@pytest.mark.parametrize('kind', ['edm', 'cuda'], ids=['cpu-generator', 'gpu-generator'])
def test_streams_do_not_depend_on_the_batch(kind):
    draw = lambda seeds: (lambda s: (s.normal((2, 3)), s.integers(7), s.normal((5,), torch.float64)))(
        ImageStreams(seeds, kind)
    )
    together, apart = draw([4, 2**32 + 8, 15]), draw([8])
    for a, b in zip(together, apart):
        assert torch.equal(a[1:2], b)


def test_published_latents_of_two_seeds():
    latents = ImageStreams([0, 100000]).normal((3, 32, 32)).flatten(1)[:, :3]
    assert latents[0].tolist() == pytest.approx([-1.12584, -1.15236, -0.250579], abs=1e-5)
    assert latents[1].tolist() == pytest.approx([-0.706041, -0.089824, 0.140101], abs=1e-5)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: ImageStreams([0], 'gpu'), "kind must be one of edm, cuda, got 'gpu'"),
        (lambda: ImageStreams([-1]), 'seeds'),
        (lambda: _cuda_normal((1, 4), [0], offset=2), 'offset must be a multiple of 4, got 2'),
        (lambda: _cuda_normal((1, 4), [0], dtype=torch.float16), 'float16'),
        (lambda: _cuda_normal((1, 50_000), [0]), 'differs from GPU to GPU'),
        (lambda: ImageStreams([0]).integers(0), 'high'),
    ],
)
def test_streams_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def same(real, imitated):
    "Assert equal bits; the message counts those that differ, and by how much."
    other = (real.cpu() != imitated).sum().item()
    assert other == 0, (
        f'{other} of {imitated.numel()} differ, by {(real.cpu() - imitated).abs().max():.3g} at most'
    )


@pytest.mark.cuda
def test_a_gpu_draws_what_is_imitated():
    properties = torch.cuda.get_device_properties(0)
    threads = properties.multi_processor_count * properties.max_threads_per_multi_processor
    for shape in ((3, 32, 32), (3, 64, 64), (3, 600, 600)):
        real, imitated = ImageStreams([0, 7], 'cuda', 'cuda'), ImageStreams([0, 7], 'cuda', 'cpu', threads)
        same(real.normal(shape), imitated.normal(shape))
        assert torch.equal(real.integers(10).cpu(), imitated.integers(10))
        same(real.normal(shape, torch.float64), imitated.normal(shape, torch.float64))
