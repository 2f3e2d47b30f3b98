"""EDM2's network against numbers of the published code, and against that code where it is installed."""

import math

import numpy as np
import pytest
import torch

from difflow import EDMDenoiser
from difflow.networks import EDM2UNet
from golden import FIXTURES, filled, wave

TINY = dict(
    img_resolution=8,
    img_channels=3,
    model_channels=16,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
    channels_per_head=16,
)
CASES = dict(
    plain={},
    classes=dict(label_dim=5, label_balance=0.3, concat_balance=0.4),
    wide=dict(
        img_channels=4,
        channel_mult_noise=2,
        channel_mult_emb=3,
        attn_resolutions=[8, 4],
        res_balance=0.5,
        attn_balance=0.2,
        clip_act=0.5,
    ),
    filter=dict(resample_filter=[1, 3, 3, 1], clip_act=None, channels_per_head=64),
)


def closed(key, tensor):
    "Return the closed-form value of a tensor: gains that are not 0, and waves that are not all alike."
    if tensor.ndim == 0:
        return torch.tensor(0.8)
    if key.endswith(('freqs', 'phases')):
        return 3 * wave(tensor.shape, a=1.7)
    return filled(key, tensor.shape) * (1e-4 if 'conv_res1' in key else 1)  # where the 1e-4 counts


def tiny(**options):
    net = EDM2UNet(**TINY | options)
    net.load_state_dict({key: closed(key, tensor) for key, tensor in net.state_dict().items()})
    return net.eval()


def asked(net):
    "Return what a network is asked in all of the tests here."
    x, levels = wave((2, net.config['img_channels'], 8, 8)), torch.tensor([-1.2, 0.7])
    return x, levels, torch.tensor([0, 4]) if net.num_classes else None


@pytest.mark.parametrize('name', CASES)
def test_outputs_are_the_published_ones(name):
    expected = torch.from_numpy(np.load(FIXTURES / 'edm2.npz')[name])
    with torch.inference_mode():
        net = tiny(**CASES[name])
        answer = net(*asked(net))
    assert (answer - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize('name', CASES)
def test_the_published_code_itself(name):
    published = pytest.importorskip('training.networks_edm2')  # github.com/NVlabs/edm2 on the path
    options = TINY | dict(label_dim=0) | CASES[name]
    torch.manual_seed(0)
    theirs = published.Precond(use_fp16=False, sigma_data=0.4, **options).eval()
    ours = EDMDenoiser(tiny(**CASES[name]), sigma_data=0.4).eval()
    assert list(theirs.unet.state_dict()) == list(ours.net.state_dict())
    with torch.no_grad():
        for p in theirs.unet.parameters():
            p.fill_(0.8) if p.ndim == 0 else p.mul_(0.3)
    ours.net.load_state_dict(theirs.unet.state_dict())
    x, levels, labels = asked(ours.net)
    rows = None if labels is None else torch.eye(5)[labels]
    with torch.inference_mode():
        expected, answer = theirs(x, levels.exp(), rows), ours(x, levels.exp(), labels)
        assert (answer - expected).abs().max() < 1e-4 * expected.abs().max()
        free = theirs(x, levels.exp()), ours(x, levels.exp())
    assert (free[0] - free[1]).abs().max() < 1e-5 * free[0].abs().max()
    theirs.train(), ours.train()
    for one in (theirs.unet, ours.net):
        one(x, levels, rows).square().mean().backward()
    for key, p in theirs.unet.named_parameters():
        q = ours.net.get_parameter(key)
        assert torch.allclose(p, q, atol=1e-6)  # put back to their length
        assert (p.grad - q.grad).abs().max() <= 1e-4 * p.grad.abs().max()


def test_a_layer_by_its_equations():
    "Equations 47 and 66, 81, 88, 103 of the paper, written out."
    from difflow.networks.edm2_unet import _EDM2Block

    net = tiny(label_dim=5)
    block, x, emb = net.enc['8x8_block0'], wave((2, 16, 8, 8), a=0.37), wave((2, 32), a=0.9)
    assert isinstance(block, _EDM2Block) and not block.heads

    def layer(module, x, gain=1.0):
        w = module.weight.flatten(1)
        w = gain * w / (w.norm(dim=1, keepdim=True) + 1e-4 * math.sqrt(w.shape[1]))
        if x.ndim == 2:
            return torch.einsum('bi,oi->bo', x, w)
        side = module.weight.shape[-1]
        patches = torch.nn.functional.unfold(x, side, padding=side // 2)
        return torch.einsum('bip,oi->bop', patches, w).reshape(len(x), -1, *x.shape[2:])

    with torch.inference_mode():
        answer = block(x, emb)
    silu = lambda x: x * torch.sigmoid(x) / 0.596
    x = x / (x.square().mean(1, keepdim=True).sqrt() + 1e-4)
    scale = layer(block.emb_linear, emb, block.emb_gain) + 1
    h = layer(block.conv_res1, silu(layer(block.conv_res0, silu(x)) * scale[..., None, None]))
    expected = (0.7 * x + 0.3 * h) / math.sqrt(0.7**2 + 0.3**2)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)


def test_an_image_is_answered_alike_in_any_company():
    net = tiny(**CASES['classes'])
    x, level = wave((5, 3, 8, 8), a=0.77), torch.tensor(0.3)
    labels = torch.tensor([0, 1, 2, 3, 5])
    with torch.inference_mode():
        together = net(x, level, labels)
        for i in range(5):
            assert torch.equal(net(x[i : i + 1], level, labels[i : i + 1])[0], together[i])
        for count in (2, 3, 4):
            assert torch.equal(net(x[:count], level, labels[:count]), together[:count])
