"""Scores by matrix products against the published broadcast.

Run with `pytest tests/benchmarks/bench_reproducibility.py -s`."""

from time import process_time

import pytest
import torch
import torch.nn.functional as F

from difflow import m_score, rp_score


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(count, dims, seed):
    return F.normalize(torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)), dim=1)


def seconds(work, times, clock=process_time):
    taken = []
    for _ in range(times):
        start = clock()
        result = work()
        taken.append(clock() - start)
    return min(taken), result


def published(samples, train, threshold, block):
    "Multiply a block of samples with all training features, element by element, and add up"
    best = [(part[:, None] * train[None]).sum(-1).amax(1) for part in samples.split(block)]
    return (torch.cat(best) > threshold).float().mean().item(), torch.cat(best)


def test_m_score_beside_the_broadcast():
    samples, train = features(256, 1024, 0), features(8192, 1024, 1)
    slow, (value, best) = seconds(lambda: published(samples, train, 0.1, 64), 1)
    fast, found = seconds(
        lambda: m_score(samples, train, 0.1), 25
    )  # short runs: a busy machine spoils some of them
    torch.testing.assert_close(found.similarities, best, atol=1e-6, rtol=0)
    assert found.value == value
    print(
        f'\n256 x 8192 x 1024: {1000 * fast:.0f} ms, broadcast {slow:.2f} s, {slow / fast:.0f} x '
        f'(CPU time of one thread)'
    )
    assert slow / fast >= 100


def test_rp_score_of_ten_thousand_pairs():
    a, b = features(10_000, 1024, 0), features(10_000, 1024, 1)
    taken, _ = seconds(lambda: rp_score(a, b), 7)
    print(f'\nRP score of 10000 pairs x 1024: {1000 * taken:.0f} ms (CPU time of one thread)')
    assert taken < 0.1


LARGE = """if True:
    import sys
    from time import process_time
    import torch
    sys.path.insert(0, 'tests/benchmarks')
    from bench_reproducibility import features
    from difflow import m_score
    torch.set_num_threads(1)
    samples, train = features(10_000, 1024, 0), features(50_000, 1024, 1)
    open('/proc/self/clear_refs', 'w').write('5') # the peak so far is forgotten
    start = process_time()
    m_score(samples, train)
    peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
    print(process_time() - start, int(peak.split()[1]) / 1024)"""


def test_memory_of_the_full_size(python, root):
    "The peak of the whole process, with the 240 MB of features"
    taken, peak = map(float, python(LARGE, cwd=root, env={'OMP_NUM_THREADS': '1'}).split())
    print(f'\n10000 x 50000 x 1024: {taken:.1f} s, peak {peak:.0f} MiB with torch and the features')
    assert peak < 2000
