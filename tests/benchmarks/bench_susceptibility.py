"""How many sites change together, with its interval, against summing up the matrix of the sites.

Run with `pytest tests/benchmarks/bench_susceptibility.py -s`."""

from time import process_time

import numpy as np
import pytest

from difflow import susceptibility

SAMPLES, SITES = 256, 64 * 64


def by_matrix(changes):
    "The definition, without an interval"
    matrix = np.cov(changes.T)
    return matrix.sum() / matrix.trace()


@pytest.mark.slow
def test_without_the_matrix():
    changes = np.random.default_rng(0).standard_normal((SAMPLES, SITES))
    times = dict(ours=[], matrix=[])
    for _ in range(3):
        start = process_time()
        found = susceptibility(changes)
        middle = process_time()
        expected = by_matrix(changes)
        times['ours'].append(middle - start)
        times['matrix'].append(process_time() - middle)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    ours, matrix = (min(t) for t in times.values())
    print(
        f'\n{SAMPLES} samples of {SITES} sites: {ours:.3f} s with 200 resamples, by the matrix {matrix:.3f} s'
    )
    assert ours < matrix
