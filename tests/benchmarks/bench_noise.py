"""`normal` against `torch.randn` on one CPU thread; run as a script or with pytest."""

from time import perf_counter

import torch

from difflow import normal
from difflow.noise import _generator_normal

SHAPE = 64, 3, 32, 32
MAKERS = {
    'torch.randn': lambda: torch.randn(SHAPE),
    'normal, one seed': lambda: normal(SHAPE),
    'normal, a seed an image': lambda: normal(SHAPE, seeds=range(64)),
    'generator_normal': lambda: _generator_normal(SHAPE, range(64)),
}


def seconds(repeats=40):
    "Return the best time of each maker, measured in turns so that a busy machine slows them alike."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = dict.fromkeys(MAKERS, float('inf'))
    try:
        for _ in range(repeats):
            for name, make in MAKERS.items():
                start = perf_counter()
                make()
                best[name] = min(best[name], perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best


def report(best):
    "Print times and ratios to `torch.randn`."
    for name, time in best.items():
        print(f'{name:24} {time * 1e3:6.2f} ms {time / best["torch.randn"]:6.1f} x randn')


def test_normal_is_within_eight_randn():
    best = seconds()
    report(best)
    assert best['normal, one seed'] < 8 * best['torch.randn']


if __name__ == '__main__':
    report(seconds())
