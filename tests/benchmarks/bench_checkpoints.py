"""Opening a checkpoint with raw and averaged weights and an optimizer, against torch's own reader.

Run with `pytest tests/benchmarks/bench_checkpoints.py -s`."""

from time import perf_counter

import pytest
import torch

from difflow import UNet, load_denoiser
from difflow.checkpoints import read_contents

TELL = dict(
    image_size=32,
    num_heads=4,
    use_new_attention_order=False,
    schedule='linear',
    prediction='eps',
    rescale_timesteps=False,
)


def best(work, times=5):
    "Seconds of the fastest of several calls"
    found = []
    for _ in range(times):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return min(found)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_training_state_of_38_million_parameters(zipped, tmp_path):
    net, path = UNet(32, 3, 128, 3, 2, (16,), (1, 2, 2, 2), num_heads=4), tmp_path / 'w.pt'
    raw = net.state_dict()
    moments = {i: dict(exp_avg=t + 1, exp_avg_sq=t + 2) for i, t in enumerate(raw.values())}
    state = dict(model=raw, ema={name: t + 3 for name, t in raw.items()}, opt=dict(state=moments))
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    theirs = best(lambda: torch.load(path, weights_only=True))
    safe, whole = best(lambda: read_contents(path)), best(lambda: load_denoiser(path, **TELL))
    size = path.stat().st_size / 1e6
    kind = 'zip' if zipped else 'legacy'
    print(f'\n{kind}, {size:.0f} MB: torch.load {theirs:.2f} s; ours, every byte checked,')
    print(f'{safe / theirs:.1f} times that; the averaged denoiser {whole / theirs:.1f} times')
    assert whole < 8 * theirs
