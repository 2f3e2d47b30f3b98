"""Checkpoints: round trips, published files, damaged files and attacks."""

import http.server
import json
import os
import pickle
import random
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from golden import FIXTURES, fill, tiny_unet, wave

from difflow.checkpoints.archives import _what_is, read_tensors
from difflow.checkpoints.catalogue import (FACTORIES, _BY_SIZE, _KNOWN, _PUBLISHED, _plan_state_dict,
                                           _unet_architecture, published_config)
from difflow.checkpoints.load import (describe, embedded_models, export, find_checkpoint, lighten,
                                      load_denoiser, save)
from difflow.denoisers.discrete_time import DDPMDenoiser
from difflow.denoisers.preconditioned import EDMDenoiser, VEDenoiser, VPDenoiser
from difflow.exact.gaussian import GaussianDenoiser
from difflow.networks.unet import UNet
from difflow.schedulers.scheduler import Scheduler

TELL = dict(image_size=32, num_head_channels=32, use_new_attention_order=False, schedule='linear')


def small_net(**options):
    small = dict(channel_mult=(1, 1), num_heads=2, attention_resolutions=(4,))
    return fill(UNet(8, 1, 32, 1, 1, **small | options))


def answer(denoiser, labels=None):
    x, sigma = wave((2, *denoiser.image_shape)), torch.tensor([0.3, 5.0])
    with torch.inference_mode():
        return denoiser(x, sigma, labels)


@pytest.mark.parametrize(
    'make',
    [
        lambda: EDMDenoiser(small_net(), sigma_data=0.3),
        lambda: VPDenoiser(small_net(), beta_d=15.0),
        lambda: VEDenoiser(small_net(), sigma_max=50.0),
        lambda: DDPMDenoiser(small_net(patch_size=2), Scheduler.cosine(200).respace('50'), 'v', clip=False),
        lambda: DDPMDenoiser(tiny_unet(num_classes=3, null_class=True), variance='learned_range'),
    ],
)
def test_round_trip(make, tmp_path):
    denoiser = make()
    path = save(denoiser, tmp_path / 'a' / 'b.safetensors', card={'data': 'waves', 'steps': 3})
    loaded = load_denoiser(path)
    assert type(loaded) is type(denoiser) and not loaded.training and not loaded.net.training
    assert loaded.options == denoiser.options and loaded.net.config == denoiser.net.config
    assert loaded.card == {'data': 'waves', 'steps': 3} and loaded.scheduler == denoiser.scheduler
    assert torch.equal(answer(loaded), answer(denoiser))
    again = save(loaded, tmp_path / 'again.safetensors')
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.rglob('*.*')) == ['again.safetensors', 'b.safetensors']


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_files_load_as_float32(dtype, tmp_path):
    denoiser = EDMDenoiser(small_net())
    path = save(denoiser, tmp_path / 'half.safetensors', dtype=dtype)
    assert describe(path)['dtype'] == str(dtype).removeprefix('torch.')
    loaded = load_denoiser(path)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    for name, tensor in denoiser.net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], tensor.to(dtype).float())


def test_save_refuses(tmp_path):
    net = small_net()
    with pytest.raises(ValueError, match='got GaussianDenoiser'):
        save(GaussianDenoiser(torch.zeros(1, 2, 2), 1.0), tmp_path / 'x')
    with pytest.raises(ValueError, match='got EDMDenoiser of Linear'):
        save(EDMDenoiser(torch.nn.Linear(1, 1)), tmp_path / 'x')
    with pytest.raises(ValueError, match='card must be json-able'):
        save(EDMDenoiser(net), tmp_path / 'x', card={'a': torch.ones(1)})
    net.out[2].weight.data[0] = 1e6
    with pytest.raises(ValueError, match='out.2.weight is not finite in torch.float16'):
        save(EDMDenoiser(net), tmp_path / 'x', dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(EDMDenoiser(small_net()), tmp_path / 'x.safetensors')
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        save(EDMDenoiser(small_net(dropout=0.5)), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_overrides_of_our_files(tmp_path):
    path = save(DDPMDenoiser(small_net()), tmp_path / 'x.safetensors')
    loaded = load_denoiser(path, clip=False, dropout=0.2, scheduler=Scheduler.cosine(10))
    assert not loaded.clip and loaded.net.config['dropout'] == 0.2
    assert loaded.scheduler == Scheduler.cosine(10)
    with pytest.raises(ValueError, match="x.safetensors: unknown argument 'resolution', expected one of sch"):
        load_denoiser(path, resolution=3)
    with pytest.raises(ValueError, match='do not fit this UNet'):
        load_denoiser(path, model_channels=64)
    with pytest.raises(ValueError, match="prediction must be one of .* got 'epsilon'"):
        load_denoiser(path, prediction='epsilon')


# ---- published state dicts


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: {'model': s},
        lambda s: {'state_dict': s, 'epoch': 3},
        lambda s: {f'module.{k}': v for k, v in s.items()},
        lambda s: {'model': {f'module.{k}': v for k, v in s.items()}},
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_wrappers(wrap, zipped, tmp_path):
    net = tiny_unet()
    torch.save(wrap(net.state_dict()), tmp_path / 'm.pt', _use_new_zipfile_serialization=zipped)
    loaded = load_denoiser(tmp_path / 'm.pt', **TELL)
    assert loaded.net.config == net.config and loaded.variance_type == 'learned_range'
    assert torch.equal(answer(loaded), answer(DDPMDenoiser(net, variance='learned_range')))


def test_the_callers_attention_order_is_used(tmp_path):
    net = tiny_unet(num_head_channels=16, use_new_attention_order=True)
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    expected = answer(DDPMDenoiser(net))
    tell = TELL | dict(num_head_channels=16)
    right = load_denoiser(tmp_path / 'm.pt', **tell | dict(use_new_attention_order=True))
    wrong = load_denoiser(tmp_path / 'm.pt', **tell)
    assert torch.equal(answer(right), expected)
    assert (answer(wrong) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(resblock_updown=True),
        dict(channel_mult='1,1,2', num_classes=5, null_class=True, patch_size=2),
        dict(channel_mult='1', attention_resolutions=()),
        dict(channel_mult='0.5,1', model_channels=64),
        dict(use_scale_shift_norm=False, resblock_updown=True, num_res_blocks=2, out_channels=2),
        dict(time_embed_mult=2, resblock_updown=True, num_res_blocks=3, attention_resolutions='28,16,14'),
    ],
)
@pytest.mark.parametrize('size', [16, 28])
def test_configurations_are_recovered(options, size, tmp_path):
    base = dict(
        image_size=size,
        in_channels=1,
        out_channels=1,
        model_channels=32,
        num_res_blocks=1,
        num_heads=2,
        channel_mult='1,2,1',
        attention_resolutions=(size // 2,),
    )
    net = UNet(**base | options)
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    extra = {name: options[name] for name in ('patch_size', 'null_class') if name in options}
    loaded = load_denoiser(
        tmp_path / 'm.pt',
        image_size=size,
        num_heads=2,
        use_new_attention_order=False,
        schedule='cosine',
        diffusion_steps=100,
        **extra,
    )
    assert loaded.net.state_dict().keys() == net.state_dict().keys()
    for name in net.config.keys() - {'attention_resolutions'}:
        assert loaded.net.config[name] == net.config[name]
    assert set(loaded.net.config['attention_resolutions']) <= set(net.config['attention_resolutions'])
    assert loaded.scheduler == Scheduler.cosine(100)


def meta_plan(given=None, **options):
    with torch.device('meta'):
        net = UNet(**options)
    return net, _plan_state_dict(net.state_dict(), given or {})


ADM = dict(
    model_channels=256,
    out_channels=6,
    attention_resolutions='32,16,8',
    num_head_channels=64,
    resblock_updown=True,
)


@pytest.mark.parametrize(
    'options, schedule',
    [
        (ADM | dict(image_size=256), 'linear'),
        (ADM | dict(image_size=256, num_classes=1000), 'linear'),
        (ADM | dict(image_size=512, num_classes=1000), 'linear'),
        (ADM | dict(image_size=128, num_classes=1000, num_head_channels=-1, num_heads=4), 'linear'),
        (
            ADM
            | dict(
                image_size=64,
                num_classes=1000,
                model_channels=192,
                num_res_blocks=3,
                dropout=0.1,
                use_new_attention_order=True,
            ),
            'cosine',
        ),
    ],
)
def test_published_guided_diffusion_models_are_known(options, schedule):
    net, plan = meta_plan(**options)
    assert plan.missing == [] and plan.card == {'model': f'guided-diffusion {options["image_size"]}'}
    assert plan.options == dict(
        prediction='eps',
        variance='learned_range',
        clip=True,
        scheduler={'name': schedule, 'options': {'n': 1000}},
    )
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config


@pytest.mark.parametrize('factory', ['UNet', 'UNetBig', 'UNetSmall'])
@pytest.mark.parametrize(
    'size, channels, classes', [(28, 1, 10), (28, 1, None), (32, 3, 43), (64, 3, 102), (128, 3, None)]
)
def test_published_minimal_diffusion_models_are_known(factory, size, channels, classes):
    factories = {'UNet': (64, 3, 4, 64), 'UNetBig': (192, 3, 4, 64), 'UNetSmall': (32, 2, 2, 32)}
    width, blocks, mult, head = factories[factory]
    net, plan = meta_plan(
        image_size=size,
        in_channels=channels,
        model_channels=width,
        out_channels=channels,
        dropout=0.1,
        num_res_blocks=blocks,
        attention_resolutions='28,14,7' if size == 28 else '32,16,8',
        num_head_channels=head,
        num_classes=classes,
        resblock_updown=True,
        use_new_attention_order=True,
        time_embed_mult=mult,
    )
    assert plan.missing == [] and plan.card == {'model': f'minimal-diffusion {factory} {size}'}
    assert plan.options == dict(
        prediction='eps',
        variance='fixed_small',
        clip=True,
        scheduler={'name': 'cosine', 'options': {'n': 1000}},
    )
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config


@pytest.mark.parametrize('size, maps', [(28, [28, 14, 7]), (32, [32, 16, 8])])
def test_mnist_m_and_cifar10_are_told_apart_by_the_caller(size, maps):
    options = dict(
        image_size=size,
        model_channels=64,
        num_res_blocks=3,
        attention_resolutions=maps,
        num_classes=10,
        num_head_channels=64,
        resblock_updown=True,
        use_new_attention_order=True,
    )
    assert meta_plan(**options)[1].missing == ['image_size=']
    plan = meta_plan(dict(image_size=size), **options)[1]
    assert plan.missing == [] and plan.config['attention_resolutions'] == maps


def test_the_caller_beats_the_table():
    given = dict(
        num_heads=8, schedule=Scheduler.cosine(50), variance='fixed_large', use_new_attention_order=True
    )
    plan = meta_plan(given, **ADM | dict(image_size=256))[1]
    assert plan.config['num_heads'] == 8 and plan.config['num_head_channels'] == -1
    assert plan.config['use_new_attention_order'] and plan.options['variance'] == 'fixed_large'
    assert plan.options['scheduler'] == Scheduler.cosine(50).to_dict()
    assert not {'schedule', 'num_heads', 'variance'} & plan.assumed.keys()


@pytest.mark.parametrize(
    'name, size, channels, classes, parameters, tensors',
    [
        ('ADM', 256, 3, None, 552_814_086, 566),
        ('ADM', 256, 3, 1000, 553_838_086, 567),
        ('ADM', 64, 3, 1000, 295_904_454, 541),
        ('ADM', 128, 3, 1000, 421_529_606, 493),
        ('ADM', 512, 3, 1000, 558_997_638, 645),
        ('UNet', 28, 1, 10, 14_417_345, 537),
        ('UNet', 32, 3, 10, 14_419_651, 537),
        ('UNet', 32, 3, 43, 14_428_099, 537),
        ('UNet', 64, 3, 102, 32_875_395, 541),
        ('UNet', 128, 3, None, 33_993_347, 638),
        ('UNetSmall', 28, 1, 10, 2_578_369, 413),
        ('UNetSmall', 32, 3, 10, 2_579_523, 413),
        ('UNetSmall', 64, 3, 102, 6_071_939, 417),
        ('UNetBig', 32, 3, 10, 129_422_403, 537),
        ('UNetBig', 64, 3, 102, 295_209_603, 541),
    ],
)
def test_named_configurations_have_the_published_sizes(name, size, channels, classes, parameters, tensors):
    net, plan = meta_plan({'image_size': size}, **published_config(name, size, channels, classes))
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == tensors
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config
    assert plan.missing == [] and (name if name != 'ADM' else 'guided') in plan.card['model']


def test_the_published_list_of_keys_makes_the_unconditional_model():
    lines = [
        line.split('\t') for line in (FIXTURES / 'adm256_uncond_state_dict.txt').read_text().splitlines()
    ]
    tensors = {
        key: torch.empty([int(n) for n in shape.strip('()').split(',') if n], device='meta')
        for key, shape in lines
    }
    assert len(tensors) == 566
    plan = _plan_state_dict(tensors, {})
    with torch.device('meta'):
        net = UNet(**plan.config)
    assert {k: t.shape for k, t in net.state_dict().items()} == {k: t.shape for k, t in tensors.items()}
    assert plan.config['num_head_channels'] == 64 and not plan.config['use_new_attention_order']


@pytest.mark.parametrize('size', _BY_SIZE)
@pytest.mark.parametrize('classes', [None, 1000])
def test_reduced_guided_diffusion_models_load_and_answer(size, classes, tmp_path):
    config = published_config('ADM', size, num_classes=classes)
    config |= dict(
        model_channels=64,
        num_heads=4,
        num_res_blocks=1,
        attention_resolutions=[size // 32],
        channel_mult=[1, 1],
        image_size=16,
        num_head_channels=-1,
    )
    net = fill(UNet(**config | dict(attention_resolutions=[8])))
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    new_order = config.get('use_new_attention_order', False)
    loaded = load_denoiser(
        tmp_path / 'm.pt', image_size=16, num_heads=4, schedule='linear', use_new_attention_order=new_order
    )
    labels = torch.tensor([3, 999]) if classes else None
    expected = DDPMDenoiser(net, variance='learned_range')
    assert torch.equal(answer(loaded, labels), answer(expected, labels))


@pytest.mark.parametrize('factory', FACTORIES)
def test_released_minimal_diffusion_files_load_strictly(factory, tmp_path):
    config, whole = published_config(factory, 28, 1, 10), factory == 'UNetSmall'
    if not whole:
        config |= dict(model_channels=32, num_head_channels=32)  # the others on the meta device, above
    net = UNet(**config)
    path = tmp_path / f'{factory}_mnist-epoch_100-timesteps_1000-class_condn_True_ema_0.9995.pt'
    torch.save({f'module.{name}': tensor for name, tensor in net.state_dict().items()}, path)
    given = dict(image_size=28, num_head_channels=32, schedule='cosine', use_new_attention_order=True)
    loaded = load_denoiser(path, **{} if whole else given)
    assert loaded.net.state_dict().keys() == net.state_dict().keys() and loaded.num_classes == 10
    assert loaded.scheduler == Scheduler.cosine(1000)
    assert all(torch.equal(loaded.net.state_dict()[k], t) for k, t in net.state_dict().items())


def test_known_models_do_not_overlap():
    names = [known.name for known in _KNOWN]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    'given, message',
    [
        ({}, r'give image_size=, num_heads= or num_head_channels=, use_new_attention_order=, schedule=$'),
        (dict(image_size=32, num_heads=1), 'give use_new_attention_order=, schedule=$'),
        (TELL | dict(schedule='square'), "scheduler must be one of .* got 'square'"),
        (TELL | dict(banana=1), "unknown argument 'banana', expected one of attention_resolutions"),
        (TELL | dict(model_channels=64), 'model_channels is 32 in the file, got 64'),
        (TELL | dict(channel_mult='1,4'), r"channel_mult is \[1, 2\] in the file, got '1,4'"),
        (TELL | dict(learn_sigma=False), 'learn_sigma is True in the file, got False'),
        (TELL | dict(num_head_channels=5), 'num_head_channels must divide'),
        (TELL | dict(attention_resolutions='32'), 'unexpected: input_blocks.3.1.norm.weight'),
    ],
)
def test_what_a_file_cannot_tell(given, message, tmp_path):
    torch.save(tiny_unet().state_dict(), tmp_path / 'm.pt')
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(tmp_path / 'm.pt', **given)
    assert str(tmp_path / 'm.pt') in str(error.value)


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
        (lambda s: s.pop('time_embed.0.weight'), "no guided-diffusion U-Net .'time_embed.0.weight'"),
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


# ---- attacks


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], tuple(self.call[1:])


class BuildAttack:
    "Runs through __setstate__ of an allowed-looking class rather than through a call."

    def __init__(self, attack):
        self.attack = attack

    def __reduce__(self):
        return list, (), self.attack


def attacks(sentinel):
    write = f"open({str(sentinel)!r}, 'w').close()"
    return {
        'os.system': Attack(os.system, f'touch {sentinel}'),
        'eval': Attack(eval, write),
        'exec': Attack(exec, write),
        'subprocess': Attack(subprocess.check_call, ['touch', str(sentinel)]),
        'open': Attack(open, str(sentinel), 'w'),
        'Path.touch': Attack(Path.touch, sentinel),
        'copy': Attack(shutil.copy, __file__, str(sentinel)),
        'torch.save': Attack(torch.save, {}, str(sentinel)),
        'mknod': Attack(os.mknod, str(sentinel)),
        'getattr': Attack(getattr, Attack(eval, write), 'x', None),
        'state': BuildAttack(Attack(eval, write)),
    }


NAMES = list(attacks(Path('x')))
WAYS = {
    'zip': lambda attack, path: torch.save(attack, path),
    'nested': lambda attack, path: torch.save({'model': {'w': torch.ones(2), 'more': [(attack,)]}}, path),
    'key order': lambda attack, path: torch.save({'a': torch.ones(1), 'z': {'b': {'c': attack}}}, path),
    'legacy': lambda attack, path: torch.save({'w': attack}, path, _use_new_zipfile_serialization=False),
    'data.pkl': lambda attack, path: hand_made(attack, path),
    'pickle 0': lambda attack, path: path.write_bytes(pickle.dumps(attack, 0)),
    'pickle 2': lambda attack, path: path.write_bytes(pickle.dumps({'model': attack}, 2)),
    'pickle 5': lambda attack, path: path.write_bytes(pickle.dumps(attack, 5)),
}


def hand_made(attack, path):
    "Put a pickle of the highest protocol into an archive that looks like torch.save's."
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({'weight': attack}, 5))
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/byteorder', 'little')


@pytest.mark.parametrize('name', NAMES)
def test_the_attacks_are_real(name, tmp_path):
    sentinel = tmp_path / 'owned'
    try:
        pickle.loads(pickle.dumps(attacks(sentinel)[name]))
    except AttributeError:
        assert name == 'state'
    assert sentinel.exists()


@pytest.mark.parametrize('suffix', ['pt', 'pkl', 'safetensors'])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', NAMES)
def test_attacks_run_nothing(name, way, suffix, tmp_path):
    sentinel, path = tmp_path / 'owned', tmp_path / f'evil.{suffix}'
    attack = attacks(sentinel)[name]
    WAYS[way](attack, path)
    assert not sentinel.exists()
    for read in (read_tensors, load_denoiser, describe):
        with pytest.raises(ValueError, match=f'evil.{suffix}'):
            read(path)
        assert not sentinel.exists()


# ---- files that are something else, or damaged


def test_foreign_files(tmp_path):
    import numpy as np
    from PIL import Image

    Image.new('L', (8, 8)).save(tmp_path / 'png', format='png')
    Image.new('L', (8, 8)).save(tmp_path / 'jpeg', format='jpeg')
    np.save(tmp_path / 'npy.npy', np.ones(3))
    np.savez_compressed(tmp_path / 'npz.npz', np.ones(3))
    (tmp_path / 'text').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1234')
    (tmp_path / 'json').write_text('{"a": 1}')
    (tmp_path / 'empty').touch()
    (tmp_path / 'noise').write_bytes(random.Random(0).randbytes(4096))
    (tmp_path / 'pickle').write_bytes(pickle.dumps([1, 2, 3]))
    torch.save([torch.ones(2)], tmp_path / 'list')
    torch.save(torch.ones(2), tmp_path / 'tensor')
    torch.save({}, tmp_path / 'nothing')
    torch.save({'a': 1, 'b': torch.ones(2)}, tmp_path / 'mixed')
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), str(tmp_path / 'script'))
    found = {
        'png': 'a PNG image',
        'jpeg': 'a JPEG image',
        'npy.npy': 'a NumPy array',
        'npz.npz': 'compressed zip archive',
        'text': "text, 'version https://git-lfs",
        'json': 'text,',
        'empty': 'an empty file',
        'noise': 'unknown data',
        'pickle': 'a list',
        'list': 'a list',
        'tensor': 'a Tensor',
        'nothing': 'an empty dict',
        'mixed': "'a' is a int",
        'script': 'compressed zip archive',
    }
    for name, message in found.items():
        with pytest.raises(ValueError, match=f'{name} .*{message}'):
            read_tensors(tmp_path / name)
    with pytest.raises(ValueError, match='is no folder of diffusers: it has no config.json'):
        load_denoiser(tmp_path)


@pytest.mark.parametrize('kind', ['safetensors', 'zip', 'legacy'])
def test_truncated_files(kind, tmp_path):
    denoiser, path = EDMDenoiser(small_net()), tmp_path / 'whole'
    if kind == 'safetensors':
        save(denoiser, path)
    else:
        torch.save(denoiser.net.state_dict(), path, _use_new_zipfile_serialization=kind == 'zip')
    raw = path.read_bytes()
    assert read_tensors(path).keys() == denoiser.net.state_dict().keys()
    for length in [1, 7, 8, 9, 10, 100, 5000, len(raw) // 2, len(raw) - 1000, len(raw) - 1]:
        (tmp_path / 'cut').write_bytes(raw[:length])
        with pytest.raises(ValueError, match='cut '):
            read_tensors(tmp_path / 'cut')


def test_flipped_bits_never_pass_or_crash(tmp_path):
    rng, net, path = random.Random(0), small_net(), tmp_path / 'bad'
    save(EDMDenoiser(net), tmp_path / 'a')
    torch.save(net.state_dict(), tmp_path / 'b')
    for name in 'ab':
        raw = (tmp_path / name).read_bytes()
        for _ in range(60):
            flipped = bytearray(raw)
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            try:
                tensors = read_tensors(path)
            except ValueError as error:
                assert str(path) in str(error)
                continue
            for key, tensor in net.state_dict().items():
                assert torch.equal(tensors[key], tensor)  # padding


def test_scrambled_pickles_raise_value_errors_alone(tmp_path):
    rng, path = random.Random(1), tmp_path / 'bad.pt'
    torch.save({'a': torch.ones(3, 4), 'b': torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    for _ in range(300):
        scrambled = bytearray(raw)
        for _ in range(3):
            scrambled[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(scrambled)
        try:
            read_tensors(path)
        except ValueError:
            pass


def test_headers_that_lie(tmp_path):
    from safetensors.torch import save_file

    path = save(EDMDenoiser(small_net()), tmp_path / 'x.safetensors')
    tensors = read_tensors(path)
    raw = path.read_bytes()
    outer = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')])
    header = json.loads(outer['__metadata__']['difflow'])
    for change, message in [
        (dict(format=2), 'another version'),
        (dict(sha256='0' * 64), 'damaged'),
        (dict(denoiser='System'), "unknown 'System' of 'UNet'"),
        (dict(network='os'), "unknown 'EDMDenoiser' of 'os'"),
        (dict(options={'sigma_data': -1}), 'sigma_data must be > 0'),
        (dict(options={'x': 1}), 'unexpected keyword'),
        (dict(config={}), 'image_size'),
        (dict(config=header['config'] | {'image_size': 0}), 'image_size must be'),
        (dict(config=5), 'the header lacks'),
        (dict(config=header['config'] | {'num_res_blocks': 2}), 'missing: input_blocks'),
    ]:
        save_file(tensors, path, {'difflow': json.dumps(header | change)})
        with pytest.raises(ValueError, match=message):
            load_denoiser(path)
    for text in ['{', '[]', '5', 'null']:
        save_file(tensors, path, {'difflow': text})
        with pytest.raises(ValueError, match='x.safetensors'):
            load_denoiser(path)


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    net = tiny_unet()
    save_file(net.state_dict(), tmp_path / 'x.safetensors')
    assert load_denoiser(tmp_path / 'x.safetensors', **TELL).net.config == net.config


# ---- half precision, modes, exports


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


@pytest.mark.parametrize('umask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        path = save(EDMDenoiser(small_net()), tmp_path / 'x.safetensors')
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_export_is_bare(tmp_path):
    from safetensors import safe_open

    net = tiny_unet()
    path = export(DDPMDenoiser(net), tmp_path / 'x.safetensors')
    with safe_open(path, 'pt') as file:
        assert file.metadata() is None and set(file.keys()) == set(net.state_dict())
    assert load_denoiser(path, **TELL).net.config == net.config
    with pytest.raises(ValueError, match='can save'):
        export(GaussianDenoiser(torch.zeros(1, 2, 2), 1.0), path)


def test_a_header_of_any_length_is_read(tmp_path):
    from difflow.checkpoints.archives import write_tensors

    firsts = set()
    for extra in range(0, 256, 8):  # the first byte of the file is that of a pickle, too
        path = write_tensors({'a': torch.arange(3.0)}, tmp_path / 'x', {'b': 'c' * extra})
        firsts.add(path.read_bytes()[0])
        assert read_tensors(path)['a'].tolist() == [0, 1, 2]
    assert 0x80 in firsts


# ---- names and URLs


def test_names():
    for name in embedded_models():
        assert find_checkpoint(name).stem == name
    with pytest.raises(
        ValueError,
        match="'mnits' is neither a file nor a model; known are .*; to download: adm-imagenet256, ",
    ):
        load_denoiser('mnits')


@pytest.fixture
def server(tmp_path, monkeypatch):
    "Serve `tmp_path`/www on the loopback; torch's hub is `tmp_path`/hub."
    (tmp_path / 'www').mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *a, **k):
            super().__init__(*a, directory=str(tmp_path / 'www'), **k)

        def log_message(self, *a):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield tmp_path / 'www', f'http://127.0.0.1:{httpd.server_port}', httpd
        httpd.shutdown()


def test_urls(server, tmp_path):
    folder, url, httpd = server
    denoiser = EDMDenoiser(small_net())
    sha256 = describe(save(denoiser, folder / 'x.safetensors'))['sha256']
    for wrong in ('0' * 64, '0' * 8):
        with pytest.raises(ValueError, match='not what was expected'):
            load_denoiser(f'{url}/x.safetensors', hash=wrong)
    assert not [p for p in (tmp_path / 'hub').rglob('*') if p.is_file()]
    with pytest.raises(ConnectionError, match='could not be fetched .*404.*give the path of a file'):
        load_denoiser(f'{url}/y.safetensors')
    loaded = load_denoiser(f'{url}/x.safetensors', hash=sha256)
    assert torch.equal(answer(loaded), answer(denoiser))
    (folder / 'x.safetensors').unlink()
    load_denoiser(f'{url}/x.safetensors', hash=sha256[:8].upper())
    with pytest.raises(ValueError, match='has the SHA-256'):
        load_denoiser(f'{url}/x.safetensors', hash='0' * 64)
    httpd.shutdown()
    httpd.server_close()
    with pytest.raises(ConnectionError, match='could not be fetched'):
        load_denoiser(f'{url}/z.safetensors')


def test_published_names(server, tmp_path, monkeypatch):
    folder, url, httpd = server
    net = tiny_unet()
    torch.save(net.state_dict(), folder / 'tiny.pt')
    import hashlib

    sha256 = hashlib.sha256((folder / 'tiny.pt').read_bytes()).hexdigest()
    model = _PUBLISHED['adm-imagenet256']
    assert (
        model.url
        == 'https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt'
    )
    monkeypatch.setitem(_PUBLISHED, 'adm-imagenet256', model._replace(url=f'{url}/tiny.pt'))
    with pytest.raises(ValueError, match='tiny.pt is not what was expected'):
        load_denoiser('adm-imagenet256', **TELL)
    monkeypatch.setitem(_PUBLISHED, 'adm-imagenet256', model._replace(url=f'{url}/tiny.pt', sha256=sha256))
    loaded = load_denoiser('adm-imagenet256', **TELL)
    assert loaded.card['name'] == 'adm-imagenet256' and loaded.card['licence'] == 'MIT'
    assert 'sha256' not in loaded.assumed
    monkeypatch.setitem(_PUBLISHED, 'adm-lsun-cat256', model._replace(url=f'{url}/tiny.pt', sha256=None))
    assert describe('adm-lsun-cat256', **TELL)['assumed']['sha256'].startswith('none is published')
    monkeypatch.chdir(folder)
    (folder / 'adm-imagenet256').write_bytes(
        (folder / 'tiny.pt').read_bytes()
    )  # a file of that name goes first
    assert 'name' not in load_denoiser('adm-imagenet256', **TELL).card
    httpd.shutdown()


def test_all_published_urls_are_of_their_owners():
    for name, model in _PUBLISHED.items():
        assert model.url.startswith(
            (
                'https://openaipublic.blob.core.windows.net/diffusion/jul-2021/',
                'https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/',
            )
        )
        assert model.sha256 is None or len(model.sha256) == 64
        assert model.url.endswith(f'/{name}.pkl') or name.startswith('adm-')


# ---- describe


def test_describe(tmp_path):
    net = tiny_unet(num_classes=4)
    path = save(DDPMDenoiser(net, variance='learned_range'), tmp_path / 'x.safetensors', card={'loss': 0.1})
    found = describe(path)
    assert json.loads(json.dumps(found)) == found
    assert found['parameters'] == sum(p.numel() for p in net.parameters()) and found['card'] == {'loss': 0.1}
    assert (found['image_shape'], found['classes'], found['format']) == ([3, 32, 32], 4, 'difflow')
    torch.save(net.state_dict(), tmp_path / 'x.pt')
    bare = describe(tmp_path / 'x.pt')
    assert bare['image_shape'] is None and bare['missing'][0] == 'image_size='
    assert bare['format'] == 'state dict'
    assert bare['parameters'] == found['parameters']
    assert describe(tmp_path / 'x.pt', **TELL)['missing'] == []


def test_what_is_and_architecture_need_no_network(tmp_path):
    (tmp_path / 'x').write_bytes(b'\x7fELF....')
    assert _what_is(tmp_path / 'x') == 'a program'
    with pytest.raises(ValueError, match='no guided-diffusion U-Net'):
        _unet_architecture({'a': torch.ones(1)})
