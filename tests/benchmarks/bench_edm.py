"""A training step and Heun's sampler for CIFAR-10's DDPM++ beside the published code.

Run with `pytest tests/benchmarks/bench_edm.py -s`. The published code (github.com/NVlabs/edm) is not part of
this repository, for its licence is another: DIFFLOW_EDM names a folder with it. Where torch finds a GPU the
network is that of CIFAR-10; on a processor it is the same at 16 pixels and 32 channels. The published path is
float32, as its options have it; here it is bfloat16 and `torch.compile` on a GPU, float32 on a processor."""

import importlib
import os
import sys
from contextlib import nullcontext
from copy import deepcopy
from time import perf_counter, process_time

import pytest
import torch

from difflow import EDMDenoiser, sample
from difflow.networks import edm_network
from difflow.training import Settings
from difflow.training.loop import _Run

LARGE = dict(side=32, channels=128, batch=128, images=64, rounds=20)
SMALL = dict(side=16, channels=32, batch=8, images=4, rounds=3)
WIDTHS = dict(model_channels=128, channel_mult=[2, 2, 2], augment_dim=9, dropout=0.13)


@pytest.fixture(scope='module')
def edm():
    "The modules of the published code"
    folder = os.environ.get('DIFFLOW_EDM')
    if not folder:
        pytest.skip('DIFFLOW_EDM names no folder with the published code')
    sys.path.insert(0, folder)
    try:
        yield {
            name: importlib.import_module(module)
            for name, module in dict(
                networks='training.networks',
                loss='training.loss',
                augment='training.augment',
                generate='generate',
            ).items()
        }
    except ImportError as error:
        pytest.skip(f'the published code cannot be imported: {error}')
    finally:
        sys.path.remove(folder)


def same_networks(edm, side, channels, device='cpu', **rest):
    "The published network and ours, with the same weights, none of them zero"
    torch.manual_seed(0)
    theirs = edm['networks'].EDMPrecond(
        side, 3, model_type='SongUNet', **WIDTHS | dict(model_channels=channels)
    )
    for p in theirs.parameters():
        if p.ndim == 4:
            torch.nn.init.xavier_uniform_(p, gain=0.5)
    net = edm_network('ddpmpp', side, **WIDTHS | dict(model_channels=channels))
    net.load_state_dict(
        {name.removeprefix('model.'): tensor for name, tensor in theirs.state_dict().items()}, strict=True
    )
    mine = EDMDenoiser(net)
    mine.image_shape = (3, side, side)
    return theirs.to(device), mine.to(device)


class Published:
    "One step of the published loop: augmentation, loss, Adam, gradients without NaN, average of the weights"

    def __init__(self, edm, net, batch):
        self.net, self.batch, self.ema = net.train(), batch, deepcopy(net).eval().requires_grad_(False)
        self.loss, self.pipe = (
            edm['loss'].EDMLoss(),
            edm['augment'].AugmentPipe(
                p=0.12, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1
            ),
        )
        self.optimizer = torch.optim.Adam(net.parameters(), 1e-3, (0.9, 0.999), 1e-8)

    def step(self, x0):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(net=self.net, images=x0, labels=None, augment_pipe=self.pipe).sum().mul(
            1 / self.batch
        ).backward()
        for p in self.net.parameters():
            if p.grad is not None:
                torch.nan_to_num(p.grad, nan=0, posinf=1e5, neginf=-1e5, out=p.grad)
        self.optimizer.step()
        for mean, p in zip(self.ema.parameters(), self.net.parameters()):
            mean.copy_(p.detach().lerp(mean, 0.999))


def in_turn(ways, rounds, warm):
    "Return the median seconds of each way, run in turn: by the clock with a GPU, else of the processor"
    clock, spent = perf_counter if torch.cuda.is_available() else process_time, {name: [] for name in ways}
    for i in range(rounds + warm):
        for name, way in ways.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = clock()
            way(i)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name].append(clock() - start)
    return [sorted(times[warm:])[rounds // 2] for times in spent.values()]


def print_ratio(what, slow, fast, unit=1000):
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'{torch.get_num_threads()} threads, CPU time'
    )
    print(
        f'\n{where}, {what}: {unit * slow:.0f} ms published, {unit * fast:.0f} ms here, {slow / fast:.2f} x'
    )
    return slow / fast


def training(edm, sizes, device, **accelerate):
    from accelerate import Accelerator

    theirs, mine = same_networks(edm, **sizes, device=device)
    torch.manual_seed(1)
    x0, batch = (
        (torch.rand(sizes['batch'], 3, sizes['side'], sizes['side']) * 2 - 1).to(device),
        sizes['batch'],
    )
    published = Published(edm, theirs, batch)
    settings = Settings(
        steps=1000, batch_size=batch, augment=0.12, betas=(0.9, 0.999), grad_clip=float('inf')
    )
    run = _Run(Accelerator(**accelerate), mine, torch.zeros(1), settings, None, device == 'cuda')
    slow, fast = in_turn(
        {'published': lambda i: published.step(x0), 'here': lambda i: run.step(i, x0, None)},
        sizes['rounds'],
        5 if device == 'cuda' else 1,
    )
    return print_ratio(f'training step, batch {batch}', slow, fast)


def sampling(edm, sizes, device, precision=None):
    theirs, mine = same_networks(edm, **sizes, device=device)
    count, seeds = sizes['images'], list(range(sizes['images']))
    latents = torch.stack(
        [
            torch.randn(3, sizes['side'], sizes['side'], generator=torch.Generator().manual_seed(s))
            for s in seeds
        ]
    ).to(device)
    theirs, mine, answers = theirs.eval().requires_grad_(False), mine.eval().requires_grad_(False), {}
    if device == 'cuda':
        mine.net = torch.compile(mine.net)

    def published(i):
        answers['published'] = edm['generate'].edm_sampler(theirs, latents, num_steps=18)

    def here(i):
        with torch.autocast(device, precision) if precision else nullcontext():
            answers['here'] = sample(
                mine,
                (count, 3, sizes['side'], sizes['side']),
                seeds=seeds,
                noise='edm',
                batch_size=count,
                progress=False,
            )

    slow, fast = in_turn({'published': published, 'here': here}, max(1, sizes['rounds'] // 4), 1)
    return print_ratio(f'Heun with 18 levels, {count} images', slow, fast), (
        answers['published'].float().cpu() - answers['here']
    ).abs().max().item()


@torch.no_grad()
def test_networks_and_samplers_are_the_same(edm):
    theirs, mine = same_networks(edm, **SMALL)
    x, sigma = torch.randn(3, 3, 16, 16), torch.tensor([0.1, 1.0, 20.0])
    torch.testing.assert_close(mine.eval()(x, sigma), theirs.eval()(x, sigma).float(), atol=1e-4, rtol=1e-4)


def test_training_step_on_a_processor(edm):
    training(edm, SMALL, 'cpu', cpu=True)


def test_sampling_on_a_processor(edm):
    _, difference = sampling(edm, SMALL, 'cpu')
    assert difference < 1e-3  # the same pictures


@pytest.mark.cuda
def test_training_step_on_a_gpu(edm):
    torch.backends.cudnn.benchmark = True
    assert training(edm, LARGE, 'cuda', mixed_precision='bf16') >= 1.5


@pytest.mark.cuda
def test_sampling_on_a_gpu(edm):
    torch.backends.cudnn.benchmark = True
    assert sampling(edm, LARGE, 'cuda', torch.bfloat16)[0] >= 1.5
