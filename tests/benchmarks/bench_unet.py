"""A DDPM step of the guided-diffusion U-Net: ours against the published way of computing the same numbers.

`pytest tests/benchmarks/bench_unet.py -s` compares them at 64 px on a CPU. With a GPU, the 552.8 M network at
256 px:
`python tests/benchmarks/bench_unet.py --size 256 --device cuda --dtype bf16 --batch 8 [--compile]`
"""

from argparse import ArgumentParser
from statistics import median
from time import perf_counter

import numpy as np
import torch

from difflow import DDPMDenoiser, Scheduler, UNet, ddpm, normal
from difflow.networks.unet_blocks import _AttentionBlock
from difflow.noise import Stream

NARROW = dict(
    image_size=64,
    model_channels=64,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions='32,16,8',
    num_head_channels=64,
    use_scale_shift_norm=True,
    resblock_updown=True,
)
PUBLISHED_256 = dict(
    image_size=256,
    model_channels=256,
    out_channels=6,
    num_res_blocks=2,
    attention_resolutions='32,16,8',
    num_head_channels=64,
    use_scale_shift_norm=True,
    resblock_updown=True,
)


def written_out(self, x, emb=None, size=None):
    "Attention as the published networks compute it: a width-1 convolution, two einsums, a softmax in float32"
    flat = x.flatten(2)
    parts = self.qkv(self.norm(flat)).reshape(len(x) * self.num_heads, -1, flat.shape[2])
    q, k, v = parts.chunk(3, dim=1)  # the old order: head by head
    scale = q.shape[1] ** -0.25
    weights = torch.einsum('bct,bcs->bts', q * scale, k * scale).float().softmax(-1).to(q.dtype)
    h = torch.einsum('bts,bcs->bct', weights, v).reshape(flat.shape)
    return (flat + self.proj_out(h)).reshape(x.shape)


class PublishedSteps:
    "Walk the respaced DDPM chain as published: float64 tables in NumPy, sent to the device at each use"

    def __init__(self, net, scheduler):
        self.net, self.map = net, scheduler.timesteps.tolist()
        betas, bar = scheduler.betas.numpy(), scheduler.alphas_cumprod.numpy()
        before = np.append(1.0, bar[:-1])
        variance = betas * (1 - before) / (1 - bar)
        self.betas = betas
        self.tables = dict(
            recip=np.sqrt(1 / bar),
            recipm1=np.sqrt(1 / bar - 1),
            start=betas * np.sqrt(before) / (1 - bar),
            state=(1 - before) * np.sqrt(1 - betas) / (1 - bar),
            smallest=np.log(np.append(variance[1], variance[1:])),
        )

    def at(self, table, t, x):
        return torch.from_numpy(table).to(x.device)[t].float().reshape(-1, 1, 1, 1).expand(x.shape)

    def step(self, x, t, noise):
        timesteps = torch.tensor(self.map, device=x.device, dtype=t.dtype)[
            t
        ]  # the map is made anew at every call
        out, fraction = self.net(x, timesteps).float().chunk(2, dim=1)
        low, high = self.at(self.tables['smallest'], t, x), self.at(np.log(self.betas), t, x)
        log_variance = (fraction + 1) / 2 * high + (1 - (fraction + 1) / 2) * low
        x0 = (self.at(self.tables['recip'], t, x) * x - self.at(self.tables['recipm1'], t, x) * out).clamp(
            -1, 1
        )
        mean = self.at(self.tables['start'], t, x) * x0 + self.at(self.tables['state'], t, x) * x
        return mean + (t != 0).float().reshape(-1, 1, 1, 1) * torch.exp(0.5 * log_variance) * noise

    def walk(self, x, steps):
        "Take the first `steps` steps from `x`, in the published VP scaling, with the noise of our sampler."
        last = len(self.map) - 1
        for i in range(steps):
            t = torch.full((len(x),), last - i, device=x.device)
            x = self.step(
                x, t, normal(x.shape, 0, steps - 1 - i, Stream.BACKWARD, device=x.device).to(x.dtype)
            )
        return x


def network(config, device='cpu', dtype=torch.float32):
    "Build the U-Net with random weights that give all its parts something to do."
    torch.manual_seed(0)
    net = UNet(**config).to(device).eval().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter[0].numel() ** -0.5)
    return net.to(dtype)


def seconds(work, device):
    "Return the time of one call, the device's queue emptied before and after."
    if device != 'cpu':
        torch.cuda.synchronize()
    start = perf_counter()
    result = work()
    if device != 'cpu':
        torch.cuda.synchronize()
    return perf_counter() - start, result


@torch.inference_mode()
def compare(config, batch, device='cpu', dtype=torch.float32, compiled=False, steps=3, repeats=3):
    "Return the median seconds of a step, ours and published, in turn, and the largest difference of images"
    scheduler = Scheduler.linear(1000).respace('250')
    net, written = network(config, device, dtype), network(config, device, dtype)
    for layer in written.modules():
        if isinstance(layer, _AttentionBlock):
            layer.forward = written_out.__get__(layer)
    if device != 'cpu':
        net = net.to(memory_format=torch.channels_last)
    if compiled:
        net = torch.compile(net)
    denoiser, published = (
        DDPMDenoiser(net, scheduler, variance='learned_range'),
        PublishedSteps(written, scheduler),
    )
    shape = (batch, 3, config['image_size'], config['image_size'])
    sigmas, bar = scheduler.walk()[: steps + 1], scheduler.alphas_cumprod
    x = normal(shape, 7, device=device) * sigmas[0]

    def ours():
        return list(ddpm(denoiser, x, sigmas, seeds=0))[-1].x * bar[len(bar) - 1 - steps].sqrt().item()

    def theirs():
        return published.walk(x * bar[-1].sqrt().item(), steps)

    times = {ours: [], theirs: []}
    for turn in range(repeats + 1):
        results = []
        for work in times:
            spent, result = seconds(work, device)
            results.append(result)
            if turn:
                times[work].append(spent / steps)  # the first warms up
    return median(times[ours]), median(times[theirs]), (results[0] - results[1]).abs().max().item()


def test_a_step_at_64_pixels():
    "64 channels, 1 block a level, attention at 32, 16 and 8 px; batches of 1 and 4."
    torch.set_num_threads(1)
    for batch in (1, 4):
        ours, published, difference = compare(NARROW, batch)
        print(
            f'\n64 px, batch {batch}: {1e3 * published:.0f} ms a step as published, '
            f'{1e3 * ours:.0f} ms ours, {published / ours:.2f} x; images differ by {difference:.1e}'
        )
        assert difference < 1e-3
        assert published / ours > (1.05 if batch > 1 else 1)  # the two alternate in this process


def test_full_resolution_by_a_level_of_no_blocks():
    "A training step at 28 px, batch 64: folded pixels, a finest level of no blocks, and of one."
    torch.set_num_threads(1)
    inner = dict(image_size=28, in_channels=1, model_channels=32, out_channels=1, num_head_channels=32)
    inner |= dict(attention_resolutions=(7, 4))
    nets = {
        'folded': UNet(**inner, channel_mult=(1, 2, 3), num_res_blocks=1, patch_size=2),
        'none': UNet(**inner, channel_mult=(1, 1, 2, 3), num_res_blocks=[0, 1, 1, 1]),
        'one': UNet(**inner, channel_mult=(1, 1, 2, 3), num_res_blocks=1),
    }
    x, t = normal((64, 1, 28, 28), 0), torch.linspace(-1, 1, 64)
    for dtype in (torch.float32, torch.bfloat16):
        times = {name: [] for name in nets}
        for _ in range(4):
            for name, net in nets.items():
                with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
                    spent, _ = seconds(lambda net=net: net(x, t).float().square().mean().backward(), 'cpu')
                times[name].append(spent)
        ratios = {name: median(spent[1:]) / median(times['folded'][1:]) for name, spent in times.items()}
        print(f'\n{dtype}: {ratios["none"]:.2f} times a folded step, a block there {ratios["one"]:.2f}')
        assert ratios['none'] < ratios['one']


if __name__ == '__main__':
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', type=int, default=64, choices=(64, 256))
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='fp32', choices=('fp32', 'bf16', 'fp16'))
    parser.add_argument('--compile', action='store_true')
    a = parser.parse_args()
    kind = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[a.dtype]
    config = NARROW if a.size == 64 else PUBLISHED_256
    ours, published, difference = compare(config, a.batch, a.device, kind, a.compile)
    print(
        f'{a.size} px, batch {a.batch}, {a.dtype}: published {a.batch / published:.1f} images/s, '
        f'ours {a.batch / ours:.1f} images/s, {published / ours:.2f} x; images differ by {difference:.1e}'
    )
    if a.device == 'cuda':  # the share of what matrix products alone reach on this GPU
        from torch.utils.flop_counter import FlopCounterMode

        net = network(config, a.device, kind)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net(
                torch.zeros(a.batch, 3, a.size, a.size, device=a.device, dtype=kind),
                torch.zeros(a.batch, device=a.device),
            )
        m = torch.randn(8192, 8192, device=a.device, dtype=kind)
        m @ m
        product = min(seconds(lambda: m @ m, a.device)[0] for _ in range(10))
        print(
            f'{counter.get_total_flops() / ours / (2 * 8192**3 / product):.0%} '
            'of the measured rate of matrix products'
        )
