"""Coded denoisers beyond what the notebook shows: losses, training, every network, files, bad input."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from difflow import DhariwalUNet, EDMDenoiser, SongUNet, TimeEncoder, UNet, normal, sample, save, train
from difflow.networks import CodedDiffusersUNet, CodedUNet
from difflow.representations import CodedDenoiser, load_coded, save_coded
from difflow.representations.coded_denoisers import _regularisation


def encoder(**options):
    torch.manual_seed(0)
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


def coded(probabilistic=False, **options):
    net = encoder(probabilistic=probabilistic)
    return CodedDenoiser(
        CodedUNet(4, 4, 1, 32, 1, 1, (), (1,)), net, 'kl' if probabilistic else 'l1', **options
    )


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: coded(weight_z=-1), 'weight_z must be a number >= 0, got -1'),
        (
            lambda: CodedDenoiser(CodedUNet(5, 4, 1, 32, 1, 1, (), (1,)), encoder()),
            'takes codes of 5, the encoder makes 4',
        ),
        (lambda: CodedDenoiser(coded().net, encoder(), 'l3'), "got 'l3'"),
        (lambda: CodedDenoiser(coded().net, encoder(probabilistic=True), 'l1'), 'probabilistic=False'),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_losses_by_hand():
    model, x = coded(weight_z=0.5), normal((6, 1, 4, 4)).clamp(-1, 1)
    sigma, noise = torch.full((6,), 0.8), normal((6, 1, 4, 4), seeds=1)
    with torch.no_grad():
        answer = model.given(x)(x + 0.8 * noise, 0.8)
        code = model.encoder(x, model.encoder.time_of(torch.tensor(0.8)))
        found = model.eval().loss(x, sigma=sigma, noise=noise)
    expected = 0.5 * (answer - x).square().flatten(1).sum(1) / 0.8**2 + 0.5 * code.abs().sum(1)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert _regularisation(None, code, None) == 0 and torch.equal(
        _regularisation('kl', torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2)
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

    def record(step, loss):
        seen.append(copy.deepcopy(encoders[0].bn1.running_mean))

    encoders, model, x = [], coded(), normal((32, 1, 4, 4)).clamp(-1, 1)
    start = model.encoder.bn1.running_mean.clone()

    class Watched(CodedDenoiser):
        def loss(self, x0, *rest, **options):
            encoders[:] = [self.encoder]
            return super().loss(x0, *rest, **options)

    model.__class__ = Watched
    result = train(
        model, x, steps=3, batch_size=16, progress=False, ema_w=0.6, ema_rampup=False, callback=record
    )
    ours, raw, mean = result.denoiser.encoder, result.raw.encoder, start
    for last in seen:
        mean = 0.6 * mean + 0.4 * last
    assert torch.allclose(ours.bn1.running_mean, mean, atol=1e-7) and torch.equal(
        raw.bn1.running_mean, seen[-1]
    )
    assert not torch.allclose(mean, seen[-1], atol=1e-4)
    assert int(ours.bn1.num_batches_tracked) == int(raw.bn1.num_batches_tracked) == 3


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
    with pytest.raises(ValueError, match='x1 must have the shape of x0'):
        model.between(a, b[:2], 0.5)


def test_an_odd_number_of_images_is_sampled_row_by_row():
    "Samplers add a row to odd batches of small images; its code is nobody's"
    model, x0 = coded().eval(), normal((3, 1, 4, 4))
    for p in model.net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.3)
    start = 50 * normal((3, 1, 4, 4), seeds=1)
    together = sample(model.given(x0), start, sampler='heun', steps=3, progress=False)
    for i in range(3):
        alone = sample(model.given(x0[i : i + 1]), start[i : i + 1], sampler='heun', steps=3, progress=False)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-4)
    with pytest.raises(ValueError, match='a multiple of 3 rows, got 4'):
        model.given(x0)(normal((4, 1, 4, 4)), 1.0)


def test_other_files_are_no_coded_denoisers(tmp_path):
    torch.manual_seed(0)
    save(EDMDenoiser(UNet(4, 1, 32, 1, 1, (), (1,))), tmp_path / 'plain')
    (tmp_path / 'junk').write_bytes(b'x' * 100)
    for name in ('plain', 'junk', 'nowhere'):
        with pytest.raises(ValueError, match='is no coded denoiser'):
            load_coded(tmp_path / name)


@pytest.mark.parametrize('network', ['UNet', 'SongUNet', 'Linear'])
def test_files_of_networks_without_a_code_are_refused(network, tmp_path):
    "A network of ours that takes no code, and one that is not ours"
    small = dict(image_size=4, in_channels=1, model_channels=32, out_channels=1, num_res_blocks=1)
    config = {
        'UNet': small | dict(attention_resolutions=(), channel_mult=(1,)),
        'SongUNet': SongUNet(4, 1, 1, **SMALL).config,
        'Linear': {},
    }
    header = dict(network=network, config=config[network], encoder=encoder().config, options={}, card={})
    path = tmp_path / 'm.safetensors'
    save_file({'x': torch.zeros(1)}, path, {'difflow_coded': json.dumps(header)})
    with pytest.raises(ValueError, match='is no coded denoiser') as error:
        load_coded(path)
    assert ('Linear' if network == 'Linear' else 'net must be a CodedUNet') in str(error.value)


def test_mixup_encodes_mixtures_and_weights_by_the_share():
    "A denoiser that does not see its code has the plain loss, weighted by what was drawn"
    denoiser, x0 = coded(mixup=True), normal((8, 1, 4, 4))
    nn.init.zeros_(denoiser.net.code_emb.weight), nn.init.zeros_(denoiser.net.code_emb.bias)
    sigma, noise = torch.linspace(0.1, 5, 8), normal((8, 1, 4, 4), 1)
    plain = copy.deepcopy(denoiser)
    plain.mixup = plain.weight_z = denoiser.weight_z = 0
    torch.manual_seed(0)
    share = torch.rand(8)
    torch.manual_seed(0)
    assert torch.allclose(
        denoiser.loss(x0, sigma=sigma, noise=noise), 2 * share * plain.loss(x0, sigma=sigma, noise=noise)
    )
    with pytest.raises(ValueError, match='mixup'):
        coded(mixup='yes')
