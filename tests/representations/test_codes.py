"""Codes beyond what the notebook shows: kept parts, several processes, layers, bad input."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from difflow import EDMDenoiser, SongUNet, TimeEncoder, UNet, normal, trajectory_codes, unet_features
from difflow.representations.codes import _encode, _wait_for_file


def encoder(**options):
    torch.manual_seed(0)
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


@pytest.fixture(scope='module')
def images():
    return normal((12, 1, 8, 8)).clamp(-1, 1)


def test_codes_depend_on_the_time_and_not_on_the_neighbours(images):
    net = encoder()
    codes = _encode(net, images, [0.0, 0.5, 1.0])
    assert (codes[:, 0] - codes[:, 2]).abs().max() > 1e-5
    assert torch.allclose(codes[3:5], _encode(net, images[3:5], [0.0, 0.5, 1.0]), atol=1e-6)


def test_a_time_asked_for_twice_is_computed_once(images):
    net, calls = encoder(), []
    hook = net.conv1.register_forward_hook(lambda *_: calls.append(1))
    codes = _encode(net, images, [0.0, 0.2, 0.2, 0.2, 1.0])
    hook.remove()
    assert len(calls) == 3 and torch.equal(codes[:, 1], codes[:, 3])


def test_trajectory_codes_leave_the_mode_of_the_encoder(images):
    net = encoder().train()
    before = net.bn1.running_mean.clone()
    trajectory_codes(net, images, [0.5], batch_size=5)
    assert net.training and torch.equal(net.bn1.running_mean, before)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda x: trajectory_codes(encoder(), x, []), 'times must be'),
        (lambda x: trajectory_codes(encoder(), x, [-0.1, 0.5]), 'times must be'),
        (lambda x: trajectory_codes(encoder(), x, [0.5, 0.4]), 'times must ascend'),
        (lambda x: trajectory_codes(encoder(in_channels=3), x, [0.5]), r'\(B, 3, H, W\)'),
        (lambda x: trajectory_codes(encoder(), x, [0.5], out='codes.pkl'), 'must end in .npz'),
        (
            lambda x: unet_features(EDMDenoiser(UNet(8, 1, 32, 1, 1, (), (1,))), x, [0.0]),
            'sigmas must be a number > 0, got 0.0',
        ),
    ],
)
def test_bad_input(call, message, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call(images)


def test_codes_of_other_images_are_not_taken_for_these(tmp_path, images):
    "As many images of the same shape, and the same pixels in another shape"
    net, kept = encoder(), trajectory_codes(encoder(), images, [0.5], out=tmp_path / 'c.npz')
    assert torch.equal(trajectory_codes(net, images, [0.5], out=tmp_path / 'c.npz'), kept)
    for other in (images.roll(1, 0), images.reshape(12, 1, 4, 16)):
        with pytest.raises(ValueError, match='of another run: images 12 of digest'):
            trajectory_codes(net, other, [0.5], out=tmp_path / 'c.npz')


ALONE = os.environ | {'OMP_NUM_THREADS': '1'}
RANK = """
import time, torch
from difflow import TimeEncoder, trajectory_codes
from difflow.representations.codes import _encode
import difflow.representations.codes as module, os, sys
if os.environ.get('RANK') == '1':
    real = module._encode
    def slow(*args):
        time.sleep(0.7)
        return real(*args)
    module._encode = slow
torch.manual_seed(0)
x = torch.linspace(-1, 1, 12 * 64).reshape(12, 1, 8, 8)
codes = trajectory_codes(TimeEncoder(1 / 16, 1, depth=10).eval(), x, [0., 1.], 3, sys.argv[1])
print(codes.shape[0], round(float(codes.sum()), 4))
"""


def test_processes_wait_for_each_other(tmp_path):
    env = ALONE | {'WORLD_SIZE': '2'}
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', RANK, str(tmp_path / 'c.npz')],
            env=env | {'RANK': str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    printed = [p.communicate(timeout=120) for p in ranks]
    assert [p.returncode for p in ranks] == [0, 0], printed
    assert printed[0][0] == printed[1][0] and printed[0][0].startswith('12 ')
    assert [p.name for p in tmp_path.iterdir()] == ['c.npz']
    both = (tmp_path / 'c.npz').read_bytes()
    (tmp_path / 'c.npz').unlink()
    subprocess.run([sys.executable, '-c', RANK, str(tmp_path / 'c.npz')], env=ALONE, check=True)
    assert (tmp_path / 'c.npz').read_bytes() == both


def test_waiting_has_an_end(tmp_path):
    with pytest.raises(RuntimeError, match='make nothing more'):
        _wait_for_file(tmp_path / 'c.npz', tmp_path, patience=0.3)


def test_unet_features_are_the_mean_of_a_layer():
    torch.manual_seed(0)
    net = UNet(4, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,))
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.2)
    denoiser, x = EDMDenoiser(net).eval(), normal((5, 1, 4, 4))
    noise, sigma = normal(x.shape, 0, images=range(5)), torch.tensor([0.7]).double()
    scale, level = denoiser.coefficients(sigma)[2:]
    with torch.no_grad():
        expected = net((scale * (x + 0.7 * noise)).float(), level.float().expand(5)).mean((2, 3))
    found = unet_features(denoiser, x, [0.2, 0.7], 'out', batch_size=2)
    assert found.shape == (5, 2, 1) and torch.allclose(found[:, 1], expected, atol=1e-5)


SMALL = dict(model_channels=64, channel_mult=(1,), num_blocks=1, attn_resolutions=())


@pytest.mark.parametrize(
    'net, layer',
    [
        (lambda: SongUNet(8, 1, 1, **SMALL | dict(channel_mult=(1, 1))), 'dec.4x4_in1'),
        (lambda: UNet(8, 1, 32, 1, 1, (), (1, 1)), 'middle_block'),
    ],
)
def test_middle_of_a_network(net, layer, images):
    torch.manual_seed(0)
    denoiser = EDMDenoiser(net()).eval()
    found = unet_features(denoiser, images, [0.5, 2.0])
    assert found.shape[:2] == (12, 2) and torch.equal(
        found, unet_features(denoiser, images, [0.5, 2.0], layer)
    )


@pytest.mark.parametrize('layer', ['time_embed', 'input_blocks', 'nowhere', ''])
def test_layers_without_a_code_of_each_image(layer, images):
    denoiser = EDMDenoiser(UNet(8, 1, 32, 1, 1, (), (1,))).eval()
    message = (
        'gives no code of each of 12'
        if layer in ('time_embed', 'input_blocks')
        else 'layer must name a module'
    )
    with pytest.raises(ValueError, match=message):
        unet_features(denoiser, images, [0.5], layer)
