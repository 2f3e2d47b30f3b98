"""All levels in one pass against one run a level, and how soon the explorer answers.

Run with `pytest tests/benchmarks/bench_sweep.py -s` on idle cores."""

from time import perf_counter, sleep

import pytest
import torch

from difflow import SweepExplorer, even_levels, forward_backward, load_denoiser, load_images, normal, sweep

STEPS, LEVELS = 50, [r for r in even_levels(50, 26) if r]


@pytest.fixture(scope='module')
def denoiser():
    return load_denoiser('mnist')


def images(count):
    return load_images('mnist5k', split='test').tensor(slice(0, count))


def seconds(work):
    start = perf_counter()
    result = work()
    return perf_counter() - start, result


def compare(denoiser, count):
    "Print and return how much faster one pass over 25 levels is than 25 calls; both give the same images."
    x0 = images(count)
    one_by_one = lambda: torch.stack([forward_backward(denoiser, x0, r, STEPS) for r in LEVELS])
    together = lambda: sweep(denoiser, x0, LEVELS, STEPS).images
    together()  # warm up
    fast, together_images = min((seconds(together) for _ in range(3)), key=lambda pair: pair[0])
    slow, separate_images = seconds(one_by_one)
    apart = (together_images - separate_images).abs().max().item()
    assert apart <= 1e-5  # of a range of 2; on one or two cores with AVX-512 it is 0
    print(
        f'\n{len(LEVELS)} levels x {count} image(s), {STEPS} steps: {slow:.2f} s one by one, '
        f'{fast:.2f} s in one pass, {slow / fast:.1f} x; images differ by {apart:.1e}'
    )
    return slow / fast


def test_one_pass_is_three_times_faster_for_one_image(denoiser):
    assert compare(denoiser, 1) >= 3


def test_one_pass_for_eight_images(denoiser):
    assert compare(denoiser, 8) > 0.8  # reported; the batches are full either way


def test_noise_is_a_small_part_of_a_sweep(denoiser):
    x0 = images(1)
    whole = min(seconds(lambda: sweep(denoiser, x0, LEVELS, STEPS))[0] for _ in range(3))
    with torch.inference_mode():  # as in a sweep: one forward draw, and one for each step back but the last
        noise = min(seconds(lambda: [normal(x0.shape, step=i) for i in range(STEPS)])[0] for _ in range(3))
    print(f'\nnoise: {100 * noise / whole:.1f} % of a sweep')
    assert noise < 0.02 * whole


def test_explorer_answers_within_a_second_and_is_done_within_five(denoiser):
    pictures = load_images('mnist5k', split='test')[:40]
    first, whole = [], []
    for _ in range(3):
        start = perf_counter()
        explorer = SweepExplorer(denoiser, pictures, steps=STEPS, levels=25, background=True)
        while not explorer.progress and not explorer.error:
            sleep(0.002)  # frames made, not only noised ones
        first.append(perf_counter() - start)
        explorer.wait(60)
        whole.append(perf_counter() - start)
        assert explorer.error == '' and explorer.progress == 1 and explorer.images.shape == (26, 1, 28, 28)
    print(f'\nexplorer: first frames after {min(first):.2f} s, the whole sweep after {min(whole):.2f} s')
    assert min(first) < 1 and min(whole) < 5
