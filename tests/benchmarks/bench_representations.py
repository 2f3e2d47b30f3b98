"""Codes at many times, grids of read-outs and information matrices against the published loops.

Run with `pytest tests/benchmarks/bench_representations.py -s`. CPU seconds of one process, so that a busy
machine does not stretch them; the grids by the clock. Sizes are cut to a minute; each test prints its own.
"""

import os
from time import perf_counter, process_time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from difflow import SingleTime, TimeEncoder, load_images, trajectory_codes
from difflow.representations import mine_information
from difflow.representations.mixer_training import _LRS

GRANULARITIES = 2, 5, 7, 10, 17, 25, 37, 50


def seconds(work):
    start = process_time()
    result = work()
    return process_time() - start, result


def wall(work):
    "Seconds on the clock, for work on another device"
    start = perf_counter()
    result = work()
    torch.cuda.synchronize()
    return perf_counter() - start, result


@torch.inference_mode()
def published_codes(encoder, images, granularities):
    "One pass through the files for each granularity, one pass of the encoder for each of its times"
    found = {}
    for g in granularities:
        loader = DataLoader(images, batch_size=250, collate_fn=images.collate)
        times = [i / g for i in range(g + 1)]
        found[g] = torch.cat([torch.stack([encoder(x, t) for t in times], 1) for x, _ in loader])
    return found


def compare_codes(granularities, count, turns=3):
    "Print the seconds; return the ratios of the passes of the encoder and of the seconds"
    torch.manual_seed(0)
    encoder, passes = TimeEncoder(1 / 8, 1, depth=10).eval(), []
    images = load_images('mnist5k', size=16, max_images=count)
    times = sorted({i / g for g in granularities for i in range(g + 1)})
    hook = encoder.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    work = [
        lambda: trajectory_codes(encoder, images, times),
        lambda: published_codes(encoder, images, granularities),
    ]
    ours, rows = work[0](), [sum(passes)]
    theirs = work[1]()
    rows.append(sum(passes) - rows[0])
    hook.remove()
    for g, codes in theirs.items():
        torch.testing.assert_close(
            ours[:, [times.index(i / g) for i in range(g + 1)]], codes, atol=1e-5, rtol=1e-4
        )
    turns = [[seconds(job)[0] for job in work] for _ in range(turns)]  # a busy machine is slow for both
    fast, slow = map(min, zip(*turns))
    print(
        f'\n{count} images of 16x16, WRN-10-1/8: {rows[1] // count} passes {slow:.1f} s, '
        f'{rows[0] // count} times once {fast:.1f} s, {rows[1] / rows[0]:.2f} x fewer rows, '
        f'{slow / fast:.2f} x faster'
    )
    return rows[1] / rows[0], slow / fast


def test_all_published_times_in_one_pass():
    assert compare_codes(GRANULARITIES, 100)[0] >= 1.4


def test_eleven_times():  # the published g = 2 and 5 lie in the grid of 10
    rows, faster = compare_codes((2, 5, 10), 5000, turns=1)
    assert rows >= 1.4 and faster >= 1.4


def one_by_one(train, test, time, lr, seed, epochs, batch_size, hidden, device='cpu'):
    "The published loop for one time, rate and seed: a loader, torch's layers and Adam, tested each epoch"
    (codes, labels), (more, truth) = (tuple(part.to(device) for part in pair) for pair in (train, test))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(codes)))
    held, fit = order[: len(codes) // 10], order[len(codes) // 10 :]
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(codes.shape[2], hidden), nn.ReLU(), nn.Dropout(0.25), nn.Linear(hidden, 10)
    ).to(device)
    adam, best = torch.optim.Adam(net.parameters(), lr, weight_decay=1e-5), (-1.0, 0.0)
    data = TensorDataset(codes[fit, time], labels[fit])
    for _ in range(epochs):
        net.train()
        for x, y in DataLoader(data, batch_size, shuffle=True, drop_last=True):
            adam.zero_grad()
            cross_entropy(net(x), y).backward()
            adam.step()
        net.eval()
        with torch.no_grad():
            valid = (net(codes[held, time]).argmax(1) == labels[held]).float().mean().item()
            right = (net(more[:, time]).argmax(1) == truth).float().mean().item()
        best = max(best, (valid, right))
    return best


def clusters(n, times, size, seed=0):
    "Codes of ten classes that every time shows a little of"
    centres = np.random.default_rng(0).normal(size=(10, times, size))
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(0, 10, n)
    codes = centres[labels] + 1.5 * rng.normal(size=(n, times, size))
    return torch.from_numpy(codes).float(), torch.from_numpy(labels)


def on_the_clock(work, threads):
    "Return the seconds that one waits for `work()` on so many cores, and what it returns"
    before, start = torch.get_num_threads(), perf_counter()
    torch.set_num_threads(threads)
    try:
        result = work()
    finally:
        torch.set_num_threads(before)
    return perf_counter() - start, result


def compare_grid(n, times, size, hidden, batch_size, epochs, turns=5):
    """Print and return the speed-up of 6 rates x 3 seeds x `times` at once on all cores; the loop is as fast
    on one, and of its rates the first is timed"""
    train, test = clusters(n, times, size), clusters(n // 5, times, size, seed=1)  # the shares of CIFAR-10
    options = dict(epochs=epochs, batch_size=batch_size, hidden=hidden)
    SingleTime(**options | dict(epochs=1)).fit(*train)  # warm up
    loop = lambda: [one_by_one(train, test, t, _LRS[0], s, **options) for s in range(3) for t in range(times)]
    grid, cores = lambda: SingleTime(**options).fit(*train), len(os.sched_getaffinity(0))
    found = [
        [on_the_clock(*job) for job in ((loop, 1), (grid, 1), (grid, cores))] for _ in range(turns)
    ]  # a busy machine is slow for all
    slow, alone, fast = (min(turn[i][0] for turn in found) for i in range(3))
    slow *= len(_LRS)
    theirs, reader = found[-1][0][1], found[-1][2][1]
    theirs = np.array(theirs)[:, 1].reshape(3, times)  # the highest rate is the best one in so few steps
    ours = reader.scores_by_time(*test).T
    gap, noise = (
        abs(theirs.mean() - ours.mean()),
        np.sqrt(theirs.std(0).mean() ** 2 + ours.std(0).mean() ** 2),
    )
    steps = epochs * (n * 9 // 10 // batch_size) * 18 * times
    print(
        f'\n6 x 3 x {times} read-outs, {n} codes of {size}, {hidden} hidden, '
        f'batch {batch_size}, {epochs} epochs: {slow:.1f} s one by one, {fast:.2f} s at once '
        f'({1e3 * slow / steps:.2f} and {1e3 * fast / steps:.2f} ms a step), '
        f'{slow / fast:.1f} x, on one core {slow / alone:.1f} x; '
        f'right {theirs.mean():.3f} and {ours.mean():.3f}'
    )
    assert gap < 3 * noise / np.sqrt(times) + 0.02
    return slow / fast


def test_grid_of_small_read_outs():
    assert compare_grid(600, 11, 4, 16, 32, 4) >= 10


@pytest.mark.parametrize('size, least', [(8, 10), (16, 10), (128, 5)])
def test_grid_of_published_read_outs(size, least):
    """The published width and batch. A step is two matrix products forward and three back, 2 x 256 x 512 x
    (2 size + 30) operations: 12, 16 and 75 million; with codes of 128 numbers, as published, they take the
    time"""
    assert compare_grid(2000, 11, size, 512, 256, 2) >= least


def test_information_matrix():
    "Published: three nets for each of 121 ordered pairs; here one for each of 66, all at once"
    codes = clusters(1000, 11, 4)[0]
    pairs = [(i, j) for i in range(11) for j in range(i, 11)]
    side = lambda k: torch.stack([codes[:, pair[k]] for pair in pairs])
    options = dict(steps=100, hidden=32, batch_size=64)
    fast, ours = seconds(lambda: mine_information(side(0), side(1), **options))
    timed = 6
    slow, alone = seconds(
        lambda: [mine_information(codes[:, i], codes[:, j], **options)[0] for i, j in pairs[:timed]]
    )
    assert alone[0].nats == pytest.approx(ours[0].nats, abs=1e-4)
    slow *= 363 / timed
    print(
        f'\n11 x 11, 1,000 codes of 4, 100 steps: 363 trainings {slow:.1f} s (from {timed}), '
        f'66 at once {fast:.1f} s, {slow / fast:.1f} x'
    )
    assert 363 / len(pairs) >= 5 and slow / fast >= 5


@pytest.mark.cuda
def test_grid_on_a_gpu():
    "Against the published loop on the same GPU, timed for three of the times at one rate and seed"
    train, test = clusters(5000, 11, 128), clusters(1000, 11, 128, seed=1)
    options = dict(epochs=3, batch_size=256, hidden=512)

    def alone(times):
        found = [one_by_one(train, test, t, _LRS[0], 0, **options, device='cuda') for t in times]
        torch.cuda.synchronize()
        return found

    SingleTime(**options | dict(epochs=1), device='cuda').fit(*train)
    alone([0])
    fast, reader = wall(lambda: SingleTime(**options, device='cuda').fit(*train))
    slow, found = wall(lambda: alone(range(3)))
    slow *= 198 / 3
    ours, theirs = reader.scores_by_time(*test)[:3].mean(), np.mean(found, 0)[1]
    print(
        f'\n198 read-outs {fast:.1f} s at once, {slow:.1f} s one by one: {slow / fast:.0f} x; '
        f'right {theirs:.3f} and {ours:.3f}'
    )
    assert slow / fast >= 10
