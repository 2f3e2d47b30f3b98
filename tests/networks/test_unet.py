"""The U-Net against published outputs, keys and parameter counts."""

import json

import numpy as np
import pytest
import torch

from difflow import UNet
from difflow.networks.unet import unet_levels
from golden import FIXTURES, fill, tiny_unet, wave

PLAIN = dict(
    out_channels=3, num_head_channels=-1, num_heads=2, resblock_updown=False, use_scale_shift_norm=False
)
ADM = dict(
    model_channels=256,
    out_channels=6,
    attention_resolutions='32,16,8',
    num_head_channels=64,
    resblock_updown=True,
    num_classes=1000,
)
MINIMAL = dict(attention_resolutions='32,16,8', resblock_updown=True, use_new_attention_order=True)


def count(net):
    return sum(p.numel() for p in net.parameters())


def on_meta(*args, **options):
    with torch.device('meta'):
        return UNet(*args, **options)


@pytest.mark.parametrize(
    'name, options, parameters', [('unet_adm', {}, 828_358), ('unet_plain', PLAIN, 702_499)]
)
def test_outputs_are_the_published_ones(name, options, parameters):
    net = tiny_unet(**options)
    assert count(net) == parameters
    expected = torch.from_numpy(np.load(FIXTURES / 'guided_diffusion.npz')[name])
    with torch.inference_mode():
        out = net(wave((2, 3, 32, 32)), torch.tensor([17.0, 999.0]))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_256_has_the_published_keys_and_shapes():
    net = on_meta(256, **ADM | dict(num_classes=None))
    text = (FIXTURES / 'adm256_uncond_state_dict.txt').read_text()
    published = [line.split('\t') for line in text.splitlines()]
    assert [[k, str(tuple(v.shape))] for k, v in net.state_dict().items()] == published
    assert len(published) == 566 and count(net) == 552_814_086


@pytest.mark.parametrize(
    'size, options, parameters, tensors',
    [
        (256, {}, 553_838_086, 567),
        (64, dict(model_channels=192, num_res_blocks=3, use_new_attention_order=True), 295_904_454, 541),
        (128, dict(num_heads=4, num_head_channels=-1), 421_529_606, 493),
        (512, {}, 558_997_638, 645),
        (512, dict(channel_mult='0.5,1,1,2,2,4,4'), 558_997_638, 645),
        (256, dict(in_channels=6, model_channels=192, num_head_channels=-1), 311_795_910, None),
    ],
)
def test_guided_diffusion_sizes(size, options, parameters, tensors):
    net = on_meta(size, **ADM | options)
    assert count(net) == parameters and tensors in (None, len(net.state_dict()))


@pytest.mark.parametrize(
    'size, channels, classes, width, parameters, tensors',
    [
        (28, 1, 10, 64, 14_417_345, 537),
        (32, 3, 10, 64, 14_419_651, 537),
        (32, 3, 43, 64, 14_428_099, 537),
        (64, 3, 102, 64, 32_875_395, 541),
        (128, 3, None, 64, 33_993_347, 638),
        (28, 1, 10, 32, 2_578_369, 413),
        (32, 3, 10, 32, 2_579_523, 413),
        (64, 3, 102, 32, 6_071_939, 417),
        (32, 3, 10, 192, 129_422_403, 537),
        (64, 3, 102, 192, 295_209_603, 541),
    ],
)
def test_minimal_diffusion_sizes(size, channels, classes, width, parameters, tensors):
    small = dict(num_res_blocks=2, num_head_channels=32, time_embed_mult=2)
    options = small if width == 32 else dict(num_res_blocks=3, num_head_channels=64)
    if size == 28:
        options['attention_resolutions'] = '28,14,7'
    net = on_meta(size, channels, width, channels, num_classes=classes, **MINIMAL | options)
    assert count(net) == parameters and len(net.state_dict()) == tensors


def test_28_pixels_have_the_keys_of_32():
    options = MINIMAL | dict(num_res_blocks=3, num_head_channels=64)
    a = on_meta(32, 1, 64, 1, **options)
    b = on_meta(28, 1, 64, 1, **options | dict(attention_resolutions=(28, 14, 7)))
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}
    assert [level.size for level in unet_levels(b.config)] == [28, 14, 7, 3]


@pytest.mark.parametrize('size', [8, 9, 15, 16, 28, 31])
@pytest.mark.parametrize('updown', [True, False])
def test_any_size_runs(size, updown):
    net = UNet(size, 1, 32, 2, 1, channel_mult='1,1,1', resblock_updown=updown, attention_resolutions=())
    fill(net)
    with torch.inference_mode():
        out = net(wave((2, 1, size, size)), torch.tensor([0, 999]))
    assert out.shape == (2, 2, size, size) and out.isfinite().all()


def test_config_rebuilds_through_json():
    net = tiny_unet(
        num_classes=7,
        null_class=True,
        patch_size=2,
        use_new_attention_order=True,
        dropout=0.2,
        num_heads_upsample=4,
        time_embed_mult=2,
        use_checkpoint=True,
        channel_mult='1,2',
    )
    again = UNet(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    assert again.config == net.config


def test_heads_of_the_decoder_differ():
    net = UNet(16, 1, 32, 1, 1, channel_mult=(1,), num_heads=2, num_heads_upsample=8)
    assert net.input_blocks[1][1].num_heads == net.middle_block[1].num_heads == 2
    assert net.output_blocks[0][1].num_heads == 8


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    x, t = wave((2, 3, 32, 32)), torch.tensor([17.0, 999.0])
    with torch.inference_mode():
        exact = tiny_unet()(x, t)
        half = tiny_unet().to(dtype)(x, t)
        with torch.autocast('cpu', dtype):
            auto = tiny_unet()(x, t)
    for out in (half, auto):
        assert out.dtype == torch.float32
        assert (out - exact).abs().mean() < 32 * torch.finfo(dtype).eps * exact.abs().mean()


@pytest.mark.parametrize('updown', [False, True])
def test_blocks_may_differ_from_level_to_level(updown):
    same, listed = tiny_unet(resblock_updown=updown), tiny_unet(resblock_updown=updown, num_res_blocks=[1, 1])
    x, t = wave((2, 3, 32, 32)), torch.tensor([17.0, 999.0])
    assert [*same.state_dict()] == [*listed.state_dict()]
    with torch.inference_mode():
        assert torch.equal(same(x, t), listed(x, t))
    # a finest level of no blocks: the one below is the network without it, and two convolutions lead there
    options = dict(model_channels=32, resblock_updown=updown, attention_resolutions=(8,))
    inner = on_meta(16, 32, **options, channel_mult=(1, 2), num_res_blocks=2)
    outer = on_meta(32, 3, **options, channel_mult=(1, 1, 2), num_res_blocks=[0, 2, 2])

    for key, tensor in inner.state_dict().items():
        room, _, rest = key.partition('.')
        if room == 'input_blocks':
            number, _, rest = rest.partition('.')
            if number == '0':
                continue
            key = f'input_blocks.{int(number) + 1}.{rest}'
        if room != 'out':
            assert outer.state_dict()[key].shape == tensor.shape


def test_one_timestep_serves_the_batch():
    net, x = tiny_unet(num_classes=4, null_class=True), wave((3, 3, 32, 32))
    seen = []
    net.time_embed.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.inference_mode():
        outs = [net(x, torch.tensor(t)) for t in (40, [40], [40, 40, 40])]
        labelled = net(x, torch.tensor(40), torch.tensor([4, 1, 4]))
        net(x, torch.tensor(40.0).expand(3))
    assert seen == [1, 1, 3, 1, 1]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(labelled[[0, 2]], outs[0][[0, 2]], atol=1e-5, rtol=1e-5)
    assert (labelled[1] - outs[0][1]).abs().max() > 1e-3


def test_checkpointing_keeps_gradients_and_dropout():
    x, t, gradients = wave((2, 3, 32, 32)), torch.tensor([17.0, 999.0]), []
    for flag in (False, True):
        net = tiny_unet(use_checkpoint=flag, dropout=0.3).train()
        torch.manual_seed(0)
        net(x, t).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(image_size=48), 'channel_mult must be given for 48 pixels'),
        (dict(model_channels=33), 'channels must divide by 32, got 33'),
        (dict(channel_mult=(0.5, 1), model_channels=32), 'channels must divide by 32, got 16'),
        (dict(channel_mult='a,b'), "channel_mult must be numbers .* got 'a,b'"),
        (dict(attention_resolutions='16;8'), "attention_resolutions must be numbers .* got '16;8'"),
        (dict(channel_mult=(1,) * 7, resblock_updown=True), 'too many levels for 32 pixels'),
        (dict(num_heads=7), 'num_heads must divide'),
        (dict(num_head_channels=48), 'num_head_channels must divide'),
        (dict(patch_size=5), 'patch_size must divide 32 pixels, got 5'),
        (dict(patch_size=0), 'patch_size .* got 0'),
        (dict(dropout=1.5), 'dropout .* got 1.5'),
        (dict(num_classes=-1), 'num_classes .* got -1'),
        (dict(num_res_blocks='2'), "num_res_blocks .* got '2'"),
        (dict(num_res_blocks=[1, 1]), 'num_res_blocks must have 4 numbers, one a level, got .1, 1.'),
        (dict(num_res_blocks=[1, 1, -1, 1]), 'num_res_blocks .* got -1'),
        (dict(num_res_blocks=[1, 1.5, 1, 1]), 'num_res_blocks .* got 1.5'),
        (
            dict(num_res_blocks=[1, 0, 1, 1]),
            'num_res_blocks must be >= 1 where the width changes.* 128 to 256',
        ),
        (dict(null_class=True), 'null_class=True needs num_classes'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(**dict(image_size=32) | options)


def test_bad_inputs():
    net, x, t = tiny_unet(num_classes=4), wave((2, 3, 32, 32)), torch.tensor([1.0, 2.0])
    y = torch.tensor([0, 3])
    for arguments, message in [
        ((x, t), 'labels are missing'),
        ((x, t, y + 1), r'labels must be in 0..3, got \[1, 4\]'),
        ((x, t, y - 1), 'labels must be in'),
        ((x, t, y.float()), 'labels must be integers'),
        ((x, t, y[:1]), r'labels must be integers of shape \(2,\)'),
        ((x[0], t, y), 'x must have the shape'),
        ((x[:, :1], t, y), r'x must have the shape \(B, 3, H, W\), got \(2, 1, 32, 32\)'),
        ((x, torch.ones(3), y), 'timesteps must have the shape'),
        ((x[..., :1], t, y), 'sides of x must be >= 2'),
    ]:
        with pytest.raises(ValueError, match=message):
            net(*arguments)
    with pytest.raises(ValueError, match='has no classes'):
        tiny_unet()(x, t, y)
