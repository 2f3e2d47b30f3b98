"""A DDPM++ forward with fused attention against attention written out.

Run with `pytest tests/benchmarks/bench_song_unet.py -s`."""

from statistics import median
from time import process_time

import pytest
import torch

from difflow.networks import edm_blocks, edm_network


def explicit(q, k, v):
    "Attention as einsums and a softmax in float32, the way the published networks write it."
    weights = (
        torch.einsum('bhqc,bhkc->bhqk', q.float(), (k / k.shape[-1] ** 0.5).float()).softmax(-1).to(q.dtype)
    )
    return torch.einsum('bhqk,bhkc->bhqc', weights, v)


def compare(work, monkeypatch, repeats):
    "Return the CPU seconds of `work` with fused and explicit attention, in turn, and the largest difference"
    seconds, results = {'fused': [], 'explicit': []}, {}
    ways = {'fused': edm_blocks._attend, 'explicit': explicit}
    for i in range(repeats + 1):
        for name, way in ways.items():
            monkeypatch.setattr(edm_blocks, '_attend', way)
            start = process_time()
            results[name] = work()
            if i:
                seconds[name].append(process_time() - start)  # the first warms up
    return (
        median(seconds['fused']),
        median(seconds['explicit']),
        (results['fused'] - results['explicit']).abs().max().item(),
    )


@torch.inference_mode()
def test_one_attention_layer(monkeypatch):
    "256 channels at 16 and at 32 pixels, batch 8."
    for size in (16, 32):
        q, k, v = torch.randn(3, 8, 1, size**2, 256).unbind(0)
        fused, written, difference = compare(
            lambda q=q, k=k, v=v: edm_blocks._attend(q, k, v), monkeypatch, 7
        )
        print(
            f'\nattention at {size} pixels: {1e3 * written:.1f} ms written out, {1e3 * fused:.1f} ms fused, '
            f'{written / fused:.2f} x'
        )
        assert difference < 1e-4


@pytest.mark.parametrize('arch', ['ddpmpp', 'ncsnpp'])
@torch.inference_mode()
def test_whole_network(arch, monkeypatch):
    "64 channels at 32 pixels, batch 4: attention is a small part of the work on a CPU."
    torch.manual_seed(0)
    net = edm_network(arch, 32, model_channels=64).eval()
    for p in net.parameters():
        if p.ndim == 4:
            torch.nn.init.xavier_uniform_(p, gain=0.5)
    x, label = torch.randn(4, 3, 32, 32), torch.linspace(-1, 1, 4)
    fused, written, difference = compare(lambda: net(x, label), monkeypatch, 3)
    print(
        f'\n{arch}: {1e3 * written:.0f} ms with attention written out, {1e3 * fused:.0f} ms fused, '
        f'{written / fused:.2f} x'
    )
    assert difference < 1e-3
