"""A labelled set in mixed batches against one class at a time; run with `pytest tests/benchmarks/bench_synthetic_data.py -s`."""
from time import process_time

import pytest
import torch

from difflow.checkpoints import load_denoiser
from difflow.synthetic_data import labelled_samples

STEPS = 4
BALANCED, SKEWED = [6] * 10, [33] + [3] * 9 # 60 images each


@pytest.fixture(scope='module')
def denoiser(): return load_denoiser('mnist-class')


def seconds(work, repeats=3):
    "Return the least CPU seconds of some runs, and the result"
    best = None
    for _ in range(repeats):
        start = process_time()
        result = work()
        spent = process_time() - start
        if best is None or spent < best: best = spent
    return best, result


def mixed(denoiser, counts): return labelled_samples(denoiser, counts, steps=STEPS)


def by_class(denoiser, counts): return [labelled_samples(denoiser, {c: n}, steps=STEPS) for c, n in enumerate(counts)]


def test_throughput_does_not_depend_on_the_class_counts(denoiser):
    mixed(denoiser, BALANCED) # warm up
    even, odd = (seconds(lambda: mixed(denoiser, counts))[0] for counts in (BALANCED, SKEWED))
    print(f'\n60 images, {STEPS} steps: balanced {60 / even:.1f} images/s, skewed {60 / odd:.1f} images/s, ratio {even / odd:.2f}')
    assert 0.85 < even / odd < 1.18


@pytest.mark.parametrize('counts', [[1] * 10, [3] * 10, SKEWED], ids=['1 a class', '3 a class', 'skewed'])
def test_mixed_batches_are_not_slower_than_one_class_at_a_time(denoiser, counts):
    fast, together = seconds(lambda: mixed(denoiser, counts))
    slow, apart = seconds(lambda: by_class(denoiser, counts))
    for c, one in enumerate(apart): # the same images
        assert (together[together.labels == c].images.int() - one.images.int()).abs().max() <= 1
    print(f'\n{sum(counts)} images: {sum(counts) / fast:.1f} images/s mixed, {sum(counts) / slow:.1f} one class at a time, {slow / fast:.2f} x')
    assert slow / fast > 0.95
