"""A labelled set in mixed batches against one class at a time.

Run with `pytest tests/benchmarks/bench_synthetic_data.py -s`."""

from functools import partial
from time import process_time

import pytest

from difflow import labelled_samples, load_denoiser

STEPS = 4
BALANCED, SKEWED = [6] * 10, [33] + [3] * 9  # 60 images each


@pytest.fixture(scope='module')
def denoiser():
    return load_denoiser('mnist-class')


def seconds(*works, repeats=3):
    "Return the least CPU seconds of some runs of each, in turn on the same machine, and the results"
    best, results = [float('inf')] * len(works), [None] * len(works)
    for _ in range(repeats):
        for i, work in enumerate(works):
            start = process_time()
            results[i] = work()
            best[i] = min(best[i], process_time() - start)
    return best, results


def mixed(denoiser, counts):
    return labelled_samples(denoiser, counts, steps=STEPS)


def by_class(denoiser, counts):
    return [labelled_samples(denoiser, {c: n}, steps=STEPS) for c, n in enumerate(counts)]


def test_throughput_does_not_depend_on_the_class_counts(denoiser):
    mixed(denoiser, BALANCED)  # warm up
    (balanced, skewed), _ = seconds(
        *(partial(mixed, denoiser, counts) for counts in (BALANCED, SKEWED)), repeats=5
    )
    print(
        f'\n60 images, {STEPS} steps: balanced {60 / balanced:.1f} images/s, '
        f'skewed {60 / skewed:.1f} images/s, ratio {balanced / skewed:.2f}'
    )
    assert 0.85 < balanced / skewed < 1.18


@pytest.mark.parametrize('counts', [[1] * 10, [3] * 10, SKEWED], ids=['1 a class', '3 a class', 'skewed'])
def test_mixed_batches_are_not_slower_than_one_class_at_a_time(denoiser, counts):
    (fast, slow), (together, apart) = seconds(
        partial(mixed, denoiser, counts), partial(by_class, denoiser, counts)
    )
    for c, one in enumerate(apart):  # the same images
        assert (together[together.labels == c].images.int() - one.images.int()).abs().max() <= 1
    print(
        f'\n{sum(counts)} images: {sum(counts) / fast:.1f} images/s mixed, '
        f'{sum(counts) / slow:.1f} one class at a time, {slow / fast:.2f} x'
    )
    assert slow / fast > 0.95
