"""A 10-level study of 32 images: all levels in one pass against one level at a time, batch as given.

Run with `pytest tests/benchmarks/bench_sweep_folders.py -s`."""

from time import process_time

import pytest
import torch
from PIL import Image

from difflow import DDPMDenoiser, UNet, forward_backward, load_denoiser, load_images, save
from difflow.data import save_images
from difflow.sweeps import forward_backward_folder

IMAGES, BATCH, STEPS, LEVELS = 32, 16, 20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A network of the published kind, small, with random weights, as a file; and 32 images as files"
    home = tmp_path_factory.mktemp('bench')
    torch.manual_seed(0)
    net = UNet(
        16,
        1,
        32,
        2,
        num_res_blocks=1,
        attention_resolutions=(8,),
        channel_mult=(1, 2),
        num_head_channels=32,
        resblock_updown=True,
    )
    save(DDPMDenoiser(net, variance='learned_range'), home / 'model.safetensors')
    save_images(load_images('mnist5k', size=16, split='test')[:IMAGES], home / 'images')
    return home


def one_level_at_a_time(home, out):
    "For each level: load the model, read each batch, walk it alone, write its files one after another"
    for r in LEVELS:
        denoiser = load_denoiser(home / 'model.safetensors')
        images = load_images(home / 'images', 16, 1)
        for i in range(0, IMAGES, BATCH):
            part = list(range(i, i + BATCH))
            back = forward_backward(denoiser, images.tensor(part), r, STEPS, seeds=part)
            pixels = ((back + 1) * 127.5).clamp(0, 255).to(torch.uint8)
            for name, image in zip(images[part].names, pixels[:, 0]):
                Image.fromarray(image.numpy()).save(out / f'{name[:-4]}_t{r * 1000 // STEPS:04d}.png')


def in_one_run(home, out, batch=BATCH):
    denoiser, images = load_denoiser(home / 'model.safetensors'), load_images(home / 'images', 16, 1)
    return forward_backward_folder(denoiser, images, out, LEVELS, STEPS, batch_size=batch)


def seconds(work, *arguments):
    "CPU seconds: other programs on the machine do not count"
    start = process_time()
    work(*arguments)
    return process_time() - start


def test_ten_levels_of_32_images(model, tmp_path):
    """On a CPU the network's arithmetic is all there is, and it is the same in both; what one run saves is
    start-up, and a GPU's idle rows"""
    (tmp_path / 'a').mkdir()
    forward_backward(
        load_denoiser(model / 'model.safetensors'), load_images(model / 'images', 16, 1).tensor([0]), 1, STEPS
    )
    slow = seconds(one_level_at_a_time, model, tmp_path / 'a')
    fast, full = (
        seconds(in_one_run, model, tmp_path / 'b'),
        seconds(in_one_run, model, tmp_path / 'c', IMAGES),
    )
    for folder in 'abc':
        assert len(list((tmp_path / folder).glob('*.png'))) == IMAGES * len(LEVELS)
    print(
        f'\n{len(LEVELS)} levels x {IMAGES} images: {slow:.2f} CPU s one level at a time, '
        f'{fast:.2f} s in one run with batches of {BATCH} ({slow / fast:.2f} x), '
        f'{full:.2f} s with batches of {IMAGES} ({slow / full:.2f} x)'
    )
    assert slow / min(fast, full) > 0.9


def test_going_on_costs_little(model, tmp_path):
    "A run that is complete is checked, file by file, and nothing is made"
    whole, again = seconds(in_one_run, model, tmp_path), seconds(in_one_run, model, tmp_path)
    print(
        f'\ncomplete run checked in {again:.3f} s, {1000 * again / IMAGES / len(LEVELS):.2f} ms a file; '
        f'made in {whole:.2f} s'
    )
    assert again < 0.2 * whole
