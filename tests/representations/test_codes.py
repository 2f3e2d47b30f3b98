"""Encoders, coded denoisers and codes beyond what the notebook shows: closed forms, files, published transforms, bad input."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from difflow.data.sets import ImageSet, load_images
from difflow.data.studies import _PREPARED, published_images
from difflow.denoisers.preconditioned import EDMDenoiser
from difflow.networks.coded import CodedDiffusersUNet, CodedUNet
from difflow.networks.song_unet import DhariwalUNet, SongUNet
from difflow.networks.unet import UNet
from difflow.noise import normal
from difflow.representations.codes import _encode, trajectory_codes, unet_features
from difflow.representations.encoders import TimeEncoder, sigma_of
from difflow.representations.learned_codes import Autoencoder, CodedDenoiser, _penalty, load_coded, save_coded
from difflow.samplers.sampling import sample
from difflow.training.loop import train


def encoder(**options):
    torch.manual_seed(0)
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


def coded(probabilistic=False, **options):
    net = encoder(probabilistic=probabilistic)
    return CodedDenoiser(
        CodedUNet(4, 4, 1, 32, 1, 1, (), (1,)), net, 'kl' if probabilistic else 'l1', **options
    )


@pytest.fixture(scope='module')
def images():
    return normal((12, 1, 8, 8)).clamp(-1, 1)


@pytest.mark.parametrize('options, size', [({}, 4), (dict(k=0.25), 16), (dict(k=0), 2), (dict(k=0.6875), 44)])
def test_code_has_64_k_numbers(options, size, images):
    net = encoder(**options)
    assert net.size == size and net(images, 0.3).shape == (12, size)
    assert (net(images, 0.3) >= 0).all()  # averages of rectified maps


def test_sigma_is_geometric_and_time_its_inverse():
    t = torch.linspace(0, 1, 11)
    sigma = sigma_of(t)
    assert sigma[0] == pytest.approx(0.01) and sigma[-1] == pytest.approx(50)
    assert (sigma[1:] / sigma[:-1]).numpy() == pytest.approx(5000**0.1)
    assert torch.allclose(coded().time_of(sigma), t, atol=1e-6)


def test_codes_depend_on_the_time_and_not_on_the_neighbours(images):
    net = encoder()
    codes = _encode(net, images, [0.0, 0.5, 1.0])
    assert (codes[:, 0] - codes[:, 2]).abs().max() > 1e-5
    assert torch.allclose(codes[3:5], _encode(net, images[3:5], [0.0, 0.5, 1.0]), atol=1e-6)
    each = net(images, torch.linspace(0, 1, 12))  # one time a row
    assert torch.allclose(each[11:], net(images[11:], 1.0), atol=1e-6)


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
        (lambda x: encoder()(x.expand(-1, 3, -1, -1), 0.5), r'\(B, 1, H, W\), got \(12, 3, 8, 8\)'),
        (lambda x: encoder()(x[0], 0.5), r'\(B, 1, H, W\), got \(1, 8, 8\)'),
        (lambda x: encoder()(x, 1.01), 't must be in 0..1'),
        (lambda x: encoder()(x, math.nan), 't must be in 0..1'),
        (lambda x: trajectory_codes(encoder(), x, []), 'times must be in 0..1'),
        (lambda x: trajectory_codes(encoder(), x, [-0.1, 0.5]), 'times must be in 0..1'),
        (lambda x: trajectory_codes(encoder(), x, [0.5, 0.4]), 'times must ascend'),
        (lambda x: trajectory_codes(encoder(in_channels=3), x, [0.5]), r'\(B, 3, H, W\)'),
        (lambda x: trajectory_codes(encoder(), x, [0.5], out='codes.pkl'), 'must end in .npz'),
        (lambda x: TimeEncoder(sigma_min=2, sigma_max=1), 'sigma_min < sigma_max'),
        (lambda x: coded(weight_z=-1), 'weight_z >= 0'),
        (
            lambda x: CodedDenoiser(CodedUNet(5, 4, 1, 32, 1, 1, (), (1,)), encoder()),
            'takes codes of 5, the encoder makes 4',
        ),
        (lambda x: CodedDenoiser(coded().net, encoder(), 'l3'), "got 'l3'"),
        (lambda x: CodedDenoiser(coded().net, encoder(probabilistic=True), 'l1'), 'probabilistic=False'),
        (lambda x: Autoencoder(encoder(), (1, 8, 8), 'l1'), "'l2' or 'bce', got 'l1'"),
        (lambda x: unet_features(coded(), x, [0.0], 'middle_block'), 'sigmas must be > 0'),
    ],
)
def test_bad_input(call, message, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call(images)


def test_losses_by_hand():
    model, x = coded(weight_z=0.5), normal((6, 1, 4, 4)).clamp(-1, 1)
    sigma, noise = torch.full((6,), 0.8), normal((6, 1, 4, 4), seeds=1)
    with torch.no_grad():
        answer = model.given(x)(x + 0.8 * noise, 0.8)
        code = model.encoder(x, model.time_of(torch.tensor(0.8)))
        found = model.eval().loss(x, sigma=sigma, noise=noise)
    expected = 0.5 * (answer - x).square().flatten(1).sum(1) / 0.8**2 + 0.5 * code.abs().sum(1)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert _penalty(None, code, None) == 0 and torch.equal(
        _penalty('kl', torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2)
    )


def test_code_changes_the_answer_only_after_training_can():
    "A code enters by `code_emb`: with its weights at 0 every image's code gives the same answer"
    model, x = coded(), normal((4, 1, 4, 4))
    for p in model.net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.3)
    other = normal((4, 1, 4, 4), seeds=3)
    with torch.no_grad():
        assert (model.given(x)(x, 1.0) - model.given(other)(x, 1.0)).abs().max() > 1e-6
        model.net.code_emb.weight.zero_()
        assert torch.equal(model.given(x)(x, 1.0), model.given(other)(x, 1.0))


def test_averaged_weights_come_with_averaged_statistics():
    "With a constant weight of the average, the statistics are the geometric sum of those of every step"
    seen = []

    def look(step, loss):
        seen.append(copy.deepcopy(encoders[0].bn1.running_mean))

    encoders, model, x = [], coded(), normal((32, 1, 4, 4)).clamp(-1, 1)
    start = model.encoder.bn1.running_mean.clone()

    class Watched(CodedDenoiser):
        def loss(self, x0, *rest, **told):
            encoders[:] = [self.encoder]
            return super().loss(x0, *rest, **told)

    model.__class__ = Watched
    result = train(
        model, x, steps=3, batch_size=16, progress=False, ema_w=0.6, ema_rampup=False, callback=look
    )
    ours, raw, mean = result.denoiser.encoder, result.raw.encoder, start
    for last in seen:
        mean = 0.6 * mean + 0.4 * last
    assert torch.allclose(ours.bn1.running_mean, mean, atol=1e-7) and torch.equal(
        raw.bn1.running_mean, seen[-1]
    )
    assert not torch.allclose(mean, seen[-1], atol=1e-4)
    assert int(ours.bn1.num_batches_tracked) == int(raw.bn1.num_batches_tracked) == 3


def test_published_weights_are_read_strictly(tmp_path):
    net = encoder()
    state = net.state_dict() | {
        'linear.weight': torch.zeros(10, 4),
        'linear.bias': torch.zeros(10),
        'time_embedding.param_t': torch.zeros(1),
    }
    torch.save(state, tmp_path / 'encoder_state_1.pth')
    torch.manual_seed(5)
    again = TimeEncoder(1 / 16, 1, depth=10).load_published(tmp_path / 'encoder_state_1.pth')
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError):
        TimeEncoder(1 / 8, 1, depth=10).load_published(tmp_path / 'encoder_state_1.pth')


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


@pytest.mark.parametrize('name', _PREPARED)
def test_published_transforms(name, tmp_path):
    "Values are (pixel / 255 - mean) / deviation, and CelebA's are averages of what is squeezed"
    side, mean, std = _PREPARED[name]
    height, width = (2 * side, 3 * side) if name == 'celeba' else (side, side)
    flat = np.array([[10, 200, 90], [255, 0, 128]], np.uint8)
    for i, colour in enumerate(flat):
        (tmp_path / str(i)).mkdir()
        Image.fromarray(np.broadcast_to(colour, (height, width, 3)).copy()).save(
            tmp_path / str(i) / 'one.png'
        )
    found = published_images(load_images(tmp_path), name, batch_size=1)
    expected = (flat / 255 - np.array(mean)) / np.array(std)
    assert found.shape == (2, 3, side, side) and found.dtype == torch.float32
    assert found.std((2, 3)).max() < 1e-4 and found.mean((2, 3)).numpy() == pytest.approx(expected, abs=1e-4)
    assert load_images(tmp_path).labels.tolist() == [0, 1]


def test_published_transforms_refuse_grey_and_other_sizes():
    grey = ImageSet(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    small = ImageSet(torch.zeros(2, 3, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match='cifar10 has colour images of 32 x 32'):
        published_images(grey, 'cifar10')
    with pytest.raises(ValueError, match=r'84 x 84, got \(3, 28, 28\)'):
        published_images(small, 'mini_imgnet')
    with pytest.raises(ValueError, match="got 'mnist'"):
        published_images(small, 'mnist')


def test_published_images_train_an_encoder():
    x = published_images(ImageSet(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)), 'cifar100')
    assert x.abs().max() > 1
    net = CodedUNet(4, 32, 3, 32, 3, 1, (), (1,), patch_size=8)
    result = train(
        CodedDenoiser(net, TimeEncoder(1 / 16, depth=10)), x, steps=2, batch_size=8, progress=False
    )
    assert np.isfinite(result.losses).all()
    assert trajectory_codes(result.denoiser.encoder, x, [0.0, 1.0]).shape == (8, 2, 4)


SMALL = dict(model_channels=64, channel_mult=(1,), num_blocks=1, attn_resolutions=())
DIFFUSERS = dict(
    down_block_types=('DownBlock2D',),
    up_block_types=('UpBlock2D',),
    block_out_channels=(32,),
    layers_per_block=1,
    norm_num_groups=8,
)
NETWORKS = {
    'UNet': lambda d: CodedUNet(d, 4, 1, 32, 1, 1, (), (1,)),
    'diffusers': lambda d: CodedDiffusersUNet(d, 4, 1, 1, **DIFFUSERS),
    'DDPM++': lambda d: SongUNet(4, 1, 1, label_dim=d, **SMALL),
    'ADM': lambda d: DhariwalUNet(4, 1, 1, label_dim=d, **SMALL),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_of_ours_takes_the_code(name, tmp_path):
    torch.manual_seed(0)
    x = normal((8, 1, 4, 4)).clamp(-1, 1)
    model = CodedDenoiser(NETWORKS[name](4), encoder())
    for p in model.net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.2)
    model = train(model, x, steps=2, batch_size=8, progress=False).denoiser
    with torch.no_grad():
        own, other = (model.given(z)(x, 1.0) for z in (x, x.roll(1, 0)))
    assert own.isfinite().all() and (own - other).abs().max() > 1e-5
    assert sample(model.given(x), x.shape, steps=2, progress=False).shape == x.shape
    again = load_coded(save_coded(model, tmp_path / 'm.safetensors', card={'steps': 2}))
    with torch.no_grad():
        assert torch.equal(again.given(x)(x, 1.0), own) and again.card == {'steps': 2}


@pytest.mark.parametrize(
    'net',
    [lambda: UNet(4, 1, 32, 1, 1, (), (1,)), lambda: SongUNet(4, 1, 1, **SMALL), lambda: nn.Conv2d(1, 1, 1)],
)
def test_networks_without_a_place_for_the_code_are_refused(net):
    with pytest.raises(ValueError, match='net must be a CodedUNet'):
        CodedDenoiser(net(), encoder())


def test_ends_of_the_way_between_two_codes():
    model, (a, b, x) = coded(), normal((3, 4, 1, 4, 4))
    for p in model.net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.3)
    with torch.no_grad():
        first, last, half = (model.between(a, b, w)(x, 1.0) for w in (0.0, 1.0, 0.5))
        assert torch.equal(first, model.given(a)(x, 1.0)) and torch.equal(last, model.given(b)(x, 1.0))
        assert (half - first).abs().max() > 1e-6 and torch.allclose(
            half, model.between(b, a, 0.5)(x, 1.0), atol=1e-6
        )
        each = model.between(a, b, torch.tensor([0.0, 1.0, 0.0, 1.0]))(torch.cat([x, x]), 1.0)
    assert torch.allclose(each[[0, 5]], torch.stack([first[0], last[1]]), atol=1e-5)
    for w in (-0.1, math.nan, torch.zeros(3)):
        with pytest.raises(ValueError, match='w must be one number in 0..1, or 4'):
            model.between(a, b, w)
    with pytest.raises(ValueError, match='x1 must be like x0'):
        model.between(a, b[:2], 0.5)


def test_other_files_are_no_coded_denoisers(tmp_path):
    from difflow.checkpoints.load import save

    torch.manual_seed(0)
    save(EDMDenoiser(UNet(4, 1, 32, 1, 1, (), (1,))), tmp_path / 'plain')
    (tmp_path / 'junk').write_bytes(b'x' * 100)
    for name in ('plain', 'junk', 'nowhere'):
        with pytest.raises(ValueError, match='is no coded denoiser'):
            load_coded(tmp_path / name)


def test_codes_of_other_images_are_not_taken_for_these(tmp_path, images):
    "As many images of the same shape, and the same pixels in another shape"
    net, kept = encoder(), trajectory_codes(encoder(), images, [0.5], out=tmp_path / 'c.npz')
    assert torch.equal(trajectory_codes(net, images, [0.5], out=tmp_path / 'c.npz'), kept)
    for other in (images.roll(1, 0), images.reshape(12, 1, 4, 16)):
        with pytest.raises(ValueError, match='other settings: pixels'):
            trajectory_codes(net, other, [0.5], out=tmp_path / 'c.npz')


RANK = """
import time, torch
from difflow.representations.codes import _encode, trajectory_codes
from difflow.representations.encoders import TimeEncoder
import difflow.representations.codes as module, os, sys
if os.environ['RANK'] == '1':
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
    env = os.environ | {'WORLD_SIZE': '2', 'OMP_NUM_THREADS': '1'}
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
    said = [p.communicate(timeout=120) for p in ranks]
    assert [p.returncode for p in ranks] == [0, 0], said
    assert said[0][0] == said[1][0] and said[0][0].startswith('12 ')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c.npz', 'c.parts']


def test_waiting_has_an_end(tmp_path):
    from difflow.representations.codes import _await

    with pytest.raises(RuntimeError, match='make nothing more'):
        _await(lambda: False, tmp_path, patience=0.3)


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
