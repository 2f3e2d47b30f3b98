"""A training step of the published 32-pixel U-Net, ours against the published path.

Run with `pytest tests/benchmarks/bench_training_loop.py -s`. Where torch finds a GPU that takes a third test,
in bfloat16 and compiled; alone with `-k gpu`."""

from time import perf_counter, process_time

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from difflow import DDPMDenoiser, Scheduler, UNet, load_images
from difflow.checkpoints import published_config
from difflow.networks.unet_blocks import _AttentionBlock
from difflow.training import recipe
from difflow.training.loop import _Run
from difflow.training.order import _Pairs
from difflow.training.recipes import settings_of

BATCH, ROUNDS = 16, 3
GPU_BATCH, GPU_ROUNDS = 128, 20


def published_attention(block, x, emb=None, size=None):
    """Attend by two einsums with a softmax in float32 between them; the whole block is computed again in the
    backward pass"""

    def attend(x):
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        query, key, value = block.qkv(block.norm(flat)).chunk(3, dim=1)
        rows, side = (
            (batch * block.num_heads, channels // block.num_heads, height * width),
            (channels // block.num_heads) ** -0.25,
        )
        weight = torch.einsum('bct,bcs->bts', (query * side).reshape(rows), (key * side).reshape(rows))
        weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
        mixed = torch.einsum('bts,bcs->bct', weight, value.reshape(rows)).reshape(
            batch, channels, height * width
        )
        return (flat + block.proj_out(mixed)).reshape(x.shape)

    return checkpoint(attend, x, use_reentrant=False)


class Published:
    "minimal-diffusion's loop: float32 tables, attention as above, AdamW, and an average kept in a dictionary"

    def __init__(self, net, device='cpu'):
        self.net = net.train().to(device)
        for block in net.modules():
            if isinstance(block, _AttentionBlock):
                block.forward = published_attention.__get__(block)
        self.optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
        self.abar = Scheduler.cosine(1000).alphas_cumprod.float().to(device)
        self.average = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def step(self, x0, labels):
        assert x0.max().item() <= 1 and x0.min().item() >= -1
        t = torch.randint(1000, (len(x0),), device=x0.device)
        noise, abar = torch.randn_like(x0), self.abar[t][:, None, None, None]
        predicted = self.net(abar.sqrt() * x0 + (1 - abar).sqrt() * noise, t, labels)
        loss = ((predicted - noise) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for name, tensor in self.net.state_dict().items():
                self.average[name] = 0.9995 * self.average[name] + 0.0005 * tensor
        return loss.item()


def network():
    torch.manual_seed(0)
    return UNet(**published_config('UNet', 32, 3, 10))


def ours(batch, compile=False, **accelerate):
    "The loop of `difflow train --arch UNet`, ready to make steps"
    from accelerate import Accelerator

    settings = settings_of(recipe('UNet', steps=1000, batch_size=batch), (3, 32, 32))
    return _Run(
        Accelerator(**accelerate),
        DDPMDenoiser(network(), Scheduler.cosine(1000)),
        torch.zeros(1),
        settings,
        None,
        compile,
    )


def seconds(work):
    "Return the CPU seconds of all threads, which do not depend on what else the machine does"
    start = process_time()
    work()
    return process_time() - start


def test_attention_is_the_published_one():
    block = next(m for m in network().modules() if isinstance(m, _AttentionBlock))
    nn.init.normal_(block.proj_out.weight, std=0.1)
    x = torch.randn(2, block.norm.num_channels, 8, 8)
    torch.testing.assert_close(published_attention(block, x), block(x), atol=1e-5, rtol=1e-4)


def test_training_step():
    x0, labels = torch.rand(BATCH, 3, 32, 32) * 2 - 1, torch.arange(BATCH) % 10
    theirs, mine = Published(network()), ours(BATCH, cpu=True)
    slow, fast = [], []
    for i in range(ROUNDS + 1):  # in turn, so that both meet the same machine; the first round warms up
        slow.append(seconds(lambda: theirs.step(x0, labels)))
        fast.append(seconds(lambda i=i: mine.step(i, x0, labels)))
    slow, fast = min(slow[1:]), min(fast[1:])
    print(
        f'\nbatch {BATCH}, {torch.get_num_threads()} threads: {slow:.2f} CPU seconds published, '
        f'{fast:.2f} here, {slow / fast:.2f} x'
    )
    assert slow / fast >= 1.4


@pytest.mark.cuda
def test_training_step_on_a_gpu():
    """bfloat16 and `torch.compile` against float32 as published, in turn; the rounds before are for the
    compiler and for cuDNN"""
    torch.backends.cudnn.benchmark = True
    x0, labels = (torch.rand(GPU_BATCH, 3, 32, 32) * 2 - 1).cuda(), (torch.arange(GPU_BATCH) % 10).cuda()
    theirs, mine = Published(network(), 'cuda'), ours(GPU_BATCH, compile=True, mixed_precision='bf16')
    steps = {'published': lambda i: theirs.step(x0, labels), 'here': lambda i: mine.step(i, x0, labels)}
    spent = {name: [] for name in steps}
    for i in range(GPU_ROUNDS + 5):
        for name, step in steps.items():
            torch.cuda.synchronize()
            start = perf_counter()
            step(i)
            torch.cuda.synchronize()
            spent[name].append(perf_counter() - start)
    slow, fast = (sorted(times[5:])[GPU_ROUNDS // 2] for times in spent.values())
    print(
        f'\n{torch.cuda.get_device_name()}, batch {GPU_BATCH}: {1000 * slow:.1f} ms published, '
        f'{1000 * fast:.1f} ms here, {slow / fast:.2f} x'
    )
    assert slow / fast >= 2.5


def test_a_step_in_a_thread_costs_little():
    "What it takes to hand a step to another thread and to wait for it, beside a step of a very small network"
    from concurrent.futures import ThreadPoolExecutor

    torch.manual_seed(0)
    layer, rounds = nn.Linear(64, 64), 2000
    optimizer, x = torch.optim.AdamW(layer.parameters()), torch.randn(64, 64)

    def step():
        layer(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def seconds(call):
        start = process_time()
        for _ in range(rounds):
            call()
        return (process_time() - start) / rounds

    with ThreadPoolExecutor(1) as pool:
        turns = [(seconds(step), seconds(lambda: pool.submit(step).result())) for _ in range(3)]
    plain, handed = (min(turn[i] for turn in turns) for i in range(2))
    print(f'\na step of {plain * 1e6:.0f} us takes {(handed - plain) * 1e6:+.0f} us more in a thread')
    assert handed - plain < 500e-6


def test_a_batch_is_read_at_once():
    "The batches of an epoch of digits, image by image and at once, in turn; the same bits"
    pairs = _Pairs(load_images('digits', split='train'), labelled=True)
    batches = [[(i, i) for i in range(start, start + 64)] for start in range(0, len(pairs) - 63, 64)]

    def one_by_one():
        return [[pairs[place] for place in batch] for batch in batches]

    def at_once():
        return [pairs.__getitems__(batch) for batch in batches]

    for slow, fast in zip(one_by_one(), at_once(), strict=True):
        assert all(torch.equal(a, b) and k == c for (a, k), (b, c) in zip(slow, fast, strict=True))
    turns = [(seconds(one_by_one), seconds(at_once)) for _ in range(5)]
    slow, fast = (min(turn[i] for turn in turns) / len(batches) for i in range(2))
    print(f'\n64 digits: {slow * 1e3:.2f} ms one by one, {fast * 1e3:.2f} at once, {slow / fast:.1f} x')
    assert slow / fast >= 3
