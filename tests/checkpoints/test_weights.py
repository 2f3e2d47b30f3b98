"""Weights in a network: strictly, and in half precision."""

import pytest
import torch
from small_models import TELL, answer, small_net

from difflow import EDMDenoiser, load_denoiser, save
from difflow.checkpoints import lighten
from golden import tiny_unet, wave


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s.pop('middle_block.1.qkv.bias'), '1 missing: middle_block.1.qkv.bias$'),
        (lambda s: s.update(extra=torch.ones(1)), '1 unexpected: extra$'),
        (
            lambda s: [s.update({f'extra{i}': torch.ones(1)}) for i in range(9)],
            r'9 unexpected: extra0, extra1, extra2, ... \(9\)',
        ),
        (
            lambda s: s.update({'out.2.bias': torch.ones(7)}),
            r'1 of another shape: out.2.bias \(7,\) for \(6,\)',
        ),
        (lambda s: s.pop('time_embed.0.weight'), 'no network that is known: it has time_embed.0.bias'),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith('output_blocks')], 'no guided-diffusion U-Net'),
        (lambda s: s.update({'input_blocks.0.0.weight': torch.ones(32, 6, 3, 3)}), 'super-resolution'),
        (lambda s: s.update({'out.2.weight': torch.ones(5, 32, 3, 3)}), '3 or 6 outputs, the file has 5'),
        (lambda s: s.update({'time_embed.0.weight': torch.ones(3)}), 'no guided-diffusion U-Net'),
    ],
)
def test_strict_keys(change, message, tmp_path):
    state = tiny_unet().state_dict()
    change(state)
    torch.save(state, tmp_path / 'm.pt')
    with pytest.raises(ValueError, match=message):
        load_denoiser(tmp_path / 'm.pt', **TELL)


def rough(net, dtype):
    "Return the rms difference that a half-precision torso makes, relative to the answer."
    light = type(net)(**net.config).eval()
    light.load_state_dict(net.state_dict())
    x, t = wave((2, 3, 32, 32)), torch.tensor([17.0, 999.0])
    with torch.inference_mode():
        exact, found = net(x, t), light.half_torso(dtype)(x, t)
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


def test_the_error_of_a_half_torso_is_that_of_its_numbers():
    fp16, bf16 = rough(tiny_unet(), torch.float16), rough(tiny_unet(), torch.bfloat16)
    assert 2**-11 < fp16 < 0.03  # numbers are rounded by up to 2^-11, and thirty layers follow one another
    assert 4 < bf16 / fp16 < 16  # bfloat16 keeps three bits less


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_torso(dtype, tmp_path):
    net = tiny_unet()
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    light = load_denoiser(tmp_path / 'm.pt', dtype=dtype, channels_last=True, **TELL)
    kinds = {name: p.dtype for name, p in light.net.named_parameters()}
    halves = {name for name, kind in kinds.items() if kind == dtype}
    inside = {
        name
        for name, layer in net.named_modules()
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d)) and not name.startswith('out.')
    }
    assert halves == {f'{name}.{part}' for name in inside for part in ('weight', 'bias')}
    assert light.net.input_blocks[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert answer(light).dtype == torch.float32
    with pytest.raises(ValueError, match='dtype must be one of .*, got torch.float64'):
        load_denoiser(tmp_path / 'm.pt', dtype=torch.float64, **TELL)
    again = load_denoiser(save(light, tmp_path / 'half.safetensors'))
    assert all(p.dtype == torch.float32 for p in again.parameters())


def test_lighten_leaves_float32_alone():
    denoiser = EDMDenoiser(small_net())
    before = answer(denoiser)
    assert torch.equal(answer(lighten(denoiser, torch.float32)), before)
    torch.testing.assert_close(answer(lighten(denoiser, channels_last=True)), before)
