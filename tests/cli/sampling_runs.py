"""How the sampling lines of minimal-diffusion run in a test, and what is read afterwards."""

import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from published_runs import Run

from difflow import UNet
from difflow.checkpoints import published_config

CLASSES = dict(
    mnist=10, mnist_m=10, cifar10=10, melanoma=2, afhq=3, celeba=4, cars=196, flowers=102, gtsrb=43
)
SIDES = dict(mnist=28, mnist_m=28, cifar10=32, gtsrb=32)  # 64: the others
EPOCHS = dict(
    mnist=100, mnist_m=250, cifar10=500, melanoma=250, afhq=500, celeba=100, cars=500, flowers=1000, gtsrb=500
)
SCRATCH = tempfile.TemporaryDirectory()


@cache
def weights(side, channels):
    "Random weights of a published network, as a state dict of several GPUs has them, without its classes"
    torch.manual_seed(side)
    net = UNet(**published_config('UNet', side, channels, 2))
    torch.nn.init.normal_(net.out[2].weight, std=0.02)
    return {f'module.{key}': tensor for key, tensor in net.state_dict().items()}


@cache
def checkpoint(name):
    "The file of a data set, as released: an ordered state dict of float32 tensors"
    channels, side = 1 if name == 'mnist' else 3, SIDES.get(name, 64)
    state = weights(32 if channels == 3 and side < 64 else side, channels)
    width = state['module.label_emb.weight'].shape[1]
    file = Path(SCRATCH.name) / f'{name}.pt'
    torch.save(state | {'module.label_emb.weight': torch.randn(CLASSES[name], width)}, file)
    return file


def lay(name, place):
    "Return what lays the checkpoint of a data set at a place"

    def prepare(folder):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        os.link(checkpoint(name), folder / place)

    return prepare


def read_back(name, n, where):
    "Return what reads the npz as a user of the original does, and the images beside it"

    def check(folder, printed):
        side, channels = SIDES.get(name, 64), 1 if name == 'mnist' else 3
        stem = f'UNet_{name}-2-sampling_steps'
        made = folder / where / f'{stem}-{n}_images-class_condn_True.npz'
        there = {p.name for p in (folder / where).iterdir() if p.suffix != '.pt'}
        assert there == {f'{stem}-class_condn_True', made.name}
        with np.load(made) as data:  # without allow_pickle
            assert data.files == ['arr_0', 'arr_1']
            images, labels = data['arr_0'], data['arr_1']
        assert images.dtype == np.uint8 and images.shape == (n, side, side, channels)
        assert labels.dtype == np.int64 and labels.tolist() == [i % CLASSES[name] for i in range(n)]
        assert images.std() > 20  # two steps of an untrained network: nearly black and white
        for i, label in enumerate(labels):
            file = made.with_name(f'{stem}-class_condn_True') / f'{label}/{112233 + i}.png'
            picture = np.asarray(Image.open(file))
            assert (picture.reshape(images[i].shape) == images[i]).all()
        first = printed.splitlines()[0]
        assert f'{side}x{side}x{channels}, {CLASSES[name]} classes' in first and 'ddpm on 2 levels' in first
        assert 'as main.py: seed 112233' in first and 'labels in turn' in first

    return check


def smaller(name):
    "Return how the line of a data set runs: large images are fewer"
    n = 2 if name in SIDES else 1
    place = f'trained_models/UNet_{name}-epoch_{EPOCHS[name]}-timesteps_1000-class_condn_True_ema_0.9995.pt'
    return Run(
        change={'sampling_steps': '2', 'num_sampled_images': str(n)},
        prepare=lay(name, place),
        check=read_back(name, n, 'sampled_images'),
    )


README = Run(
    change={'sampling_steps': '2', 'num_sampled_images': '2'},
    prepare=lay('cifar10', 'path_to_pretrained_model'),
    check=read_back('cifar10', 2, 'trained_models'),
)
RUNS = {f'S3 sample {name}': smaller(name) for name in CLASSES} | {
    'S3 sample': README,
    'S3 sample by train': README,
}
