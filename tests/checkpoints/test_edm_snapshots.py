"""Snapshots of EDM: what is read from them, and that nothing in them runs."""

import math
import pickle
import random
import time

import numpy as np
import pytest
import torch
from small_models import TINY, tiny

from difflow import (
    DhariwalUNet,
    EDMDenoiser,
    IDDPMDenoiser,
    VEDenoiser,
    VPDenoiser,
    export,
    load_denoiser,
    save,
)
from difflow.checkpoints import describe, read_contents, read_tensors
from difflow.checkpoints.edm_snapshots import _sniff_edm
from edm_files import THEIRS, Persistent, dumps, snapshot
from golden import FIXTURES, wave

NCSNPP = TINY | dict(
    embedding_type='fourier', encoder_type='residual', channel_mult_noise=2, resample_filter=[1, 3, 3, 1]
)


ADM = TINY | dict(model_channels=64, channel_mult=[1, 1], label_dim=5)


@pytest.mark.parametrize(
    'name, ours, attributes',
    [
        ('EDMPrecond', EDMDenoiser, dict(sigma_data=0.3, sigma_min=0.0, sigma_max=math.inf)),
        (
            'VPPrecond',
            VPDenoiser,
            dict(beta_d=15.0, beta_min=0.2, M=500, epsilon_t=1e-4, sigma_min=1e-3, sigma_max=50.0),
        ),
        ('VEPrecond', VEDenoiser, dict(sigma_min=0.05, sigma_max=70.0)),
        ('iDDPMPrecond', IDDPMDenoiser, dict(C_1=0.002, C_2=0.01, M=100)),
    ],
)
@pytest.mark.parametrize(
    'make',
    [
        lambda **o: tiny(**o),
        lambda **o: tiny(**NCSNPP | o),
        lambda **o: tiny(DhariwalUNet, **ADM | o),
        lambda **o: tiny(label_dim=3, augment_dim=9, **o),
    ],
)
def test_every_preconditioner_of_every_network(make, name, ours, attributes, tmp_path):
    net = make(out_channels=6 if name == 'iDDPMPrecond' else 3)
    arguments = {key: attributes[key] for key in ours(net).options if key in attributes}
    direct = ours(net, **arguments)
    buffers = dict(direct.named_buffers(recurse=False))
    path = snapshot(tmp_path / 'network-snapshot-001000.pkl', name, net, buffers=buffers, **attributes)
    loaded = load_denoiser(path)
    assert type(loaded) is ours and type(loaded.net) is type(net) and not loaded.training
    assert loaded.net.config == net.config and arguments.items() <= loaded.options.items()
    state = loaded.net.state_dict()
    assert list(state) == list(net.state_dict())
    assert all(torch.equal(state[key], tensor) for key, tensor in net.state_dict().items())
    x, sigma = wave((2, 3, 16, 16)), torch.tensor([0.3, 5.0])
    labels = torch.tensor([0, 2]) if net.num_classes else None
    with torch.inference_mode():
        assert torch.equal(loaded(x, sigma, labels), direct(x, sigma, labels))
    facts = describe(path)
    assert facts['format'] == 'EDM pickle' and facts['image_shape'] == [3, 16, 16]
    assert facts['classes'] == net.num_classes and facts['missing'] == []


@pytest.mark.parametrize('kind, name', [('precond_edm', 'EDMPrecond'), ('precond_vp', 'VPPrecond')])
def test_published_numbers_come_out_of_a_snapshot(kind, name, tmp_path):
    attributes = dict(
        EDMPrecond=dict(sigma_data=0.5), VPPrecond=dict(beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5)
    )
    denoiser = load_denoiser(snapshot(tmp_path / 'n.pkl', name, tiny(dropout=0.0), **attributes[name]))
    with torch.inference_mode():
        found = denoiser(2 * wave((2, 3, 16, 16)), torch.tensor([0.05, 3.0]))
    expected = torch.from_numpy(np.load(FIXTURES / 'edm.npz')[kind])
    assert (found - expected).abs().max() < 1e-4


def test_the_rest_of_a_snapshot(tmp_path):
    net = tiny()
    path = snapshot(tmp_path / 'n.pkl', 'EDMPrecond', net, sigma_data=0.5)
    (candidate,) = _sniff_edm(read_contents(path))
    found = candidate.facts
    assert found['ema']['class'] == 'EDMPrecond' and found['ema']['kwargs']['model_type'] == 'SongUNet'
    assert found['network']['kwargs'] == net.config and found['ema']['attributes']['sigma_data'] == 0.5
    assert list(candidate.tensors) == [f'model.{name}' for name in net.state_dict()]
    assert found['loss']['class'] == 'EDMLoss' and found['augment']['attributes']['p'] == 0.12
    assert found['dataset']['resolution'] == 16
    loaded = load_denoiser(tmp_path / 'n.pkl')
    assert (loaded.P_mean, loaded.P_std) == (-1.1, 1.3)
    assert load_denoiser(tmp_path / 'n.pkl', sigma_data=0.7, dropout=0.3).sigma_data == 0.7
    with pytest.raises(ValueError, match="n.pkl: unknown argument 'banana', expected one of sigma_data"):
        load_denoiser(tmp_path / 'n.pkl', banana=1)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_protocols(protocol, tmp_path):
    net = tiny()
    path = snapshot(tmp_path / 'n.pkl', 'EDMPrecond', net, protocol=protocol, sigma_data=0.5)
    assert torch.equal(read_tensors(path)['model.map_layer0.weight'], net.map_layer0.weight)
    assert load_denoiser(path).net.config == net.config  # numbers of NumPy come as text in protocol 2


def test_half_precision_and_shared_storages(tmp_path):
    net = tiny().half()
    assert all(
        p.dtype == torch.float32
        for p in load_denoiser(snapshot(tmp_path / 'n.pkl', 'EDMPrecond', net, sigma_data=0.5)).parameters()
    )
    whole = torch.arange(12.0)
    (tmp_path / 'views.pkl').write_bytes(
        pickle.dumps({'a': whole[2:8].reshape(2, 3).T, 'b': whole[::4], 'c': whole[:0]})
    )
    found = read_tensors(tmp_path / 'views.pkl')
    assert found['a'].tolist() == [[2, 5], [3, 6], [4, 7]] and found['b'].tolist() == [0, 4, 8]
    assert found['c'].shape == (0,)


def test_export_has_the_published_names(tmp_path):
    net = tiny(out_channels=6)
    direct = IDDPMDenoiser(net, M=100)
    path = snapshot(
        tmp_path / 'n.pkl', 'iDDPMPrecond', net, buffers={'u': direct.u}, C_1=0.001, C_2=0.008, M=100
    )
    theirs, ours = read_tensors(path), read_tensors(export(load_denoiser(path), tmp_path / 'e.safetensors'))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    again = load_denoiser(save(load_denoiser(path), tmp_path / 's.safetensors'))
    assert torch.equal(again.u, direct.u) and again.net.config == net.config


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda s: s['_modules']['model'].state['_init_kwargs'].update(model_channels=32),
            'do not fit this SongUNet',
        ),
        (
            lambda s: s['_modules']['model'].state['_init_kwargs'].update(banana=1),
            'unexpected keyword argument',
        ),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(channel_mult='x'), 'n.pkl'),
        (
            lambda s: s['_modules']['model'].state['_init_kwargs'].update(loss=Persistent('L', {})),
            'an argument is an object',
        ),
        (
            lambda s: s['_modules']['model'].state['_init_kwargs'].update(num_blocks=10**12),
            'num_blocks must be at most 100',
        ),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(model_channels=-4), 'n.pkl'),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(img_resolution=0), 'n.pkl'),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(attn_resolutions={'a': 1}), 'n.pkl'),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(channel_mult=[[1], 2]), 'n.pkl'),
        (lambda s: s['_modules']['model'].state['_init_kwargs'].update(dropout=None), 'n.pkl'),
        (lambda s: setattr(s['_modules']['model'], 'name', 'os.system'), 'unknown EDMPrecond of system'),
        (lambda s: s['_modules'].pop('model'), 'unknown EDMPrecond of None'),
        (lambda s: s['_modules'].update(more=5), 'more is no module'),
        (lambda s: s.update(_parameters=[1]), '_parameters of a EDMPrecond has no names'),
        (lambda s: s.update(_buffers={'u': 'text'}), 'holds a str among its tensors'),
        (
            lambda s: s.update(_buffers={'u': torch.ones(5)}),
            'its 5 noise levels are not those of EDMDenoiser',
        ),
        (lambda s: s.update(sigma_data=-1.0), 'sigma_data must be a number > 0'),
        (
            lambda s: s['_modules']['model'].state['_parameters'].update(extra=torch.ones(2)),
            '1 unexpected: extra$',
        ),
    ],
)
def test_damaged_snapshots(change, message, tmp_path):
    from edm_files import precond

    record = precond('EDMPrecond', tiny(), sigma_data=0.5)
    record.state['_modules']['model'].state['_init_kwargs'] = dict(
        record.state['_modules']['model'].state['_init_kwargs']
    )
    change(record.state)
    (tmp_path / 'n.pkl').write_bytes(dumps(dict(ema=record)))
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(tmp_path / 'n.pkl')
    assert str(tmp_path / 'n.pkl') in str(error.value)


def test_what_the_network_does_not_say_the_preconditioner_does(tmp_path):
    from edm_files import precond

    net = tiny()
    record = precond('EDMPrecond', net, sigma_data=0.5)
    inner = record.state['_modules']['model'].state
    inner['_init_kwargs'] = {k: v for k, v in net.config.items() if k not in ('in_channels', 'out_channels')}
    (tmp_path / 'n.pkl').write_bytes(dumps(dict(ema=record)))
    assert load_denoiser(tmp_path / 'n.pkl').net.config == net.config


def test_the_source_text_is_not_run(tmp_path):
    sentinel = tmp_path / 'owned'
    source = f"open({str(sentinel)!r}, 'w').close()"
    path = snapshot(tmp_path / 'n.pkl', 'EDMPrecond', tiny(), source, sigma_data=0.5)
    load_denoiser(path), describe(path), _sniff_edm(read_contents(path))
    assert not sentinel.exists()
    import sys

    sys.modules |= THEIRS  # the published way
    try:
        pickle.loads(path.read_bytes())
    finally:
        for name in THEIRS:
            del sys.modules[name]
    assert sentinel.exists()


def nested(item, depth):
    for _ in range(depth):
        item = [item]
    return item


def looping(kind):
    state = {}
    record = Persistent('EDMPrecond', state)
    if kind == 'module':
        state['_modules'] = {'model': record}
    if kind == 'kwargs':
        state['_init_kwargs'] = {}
        state['_init_kwargs']['again'] = state['_init_kwargs']
    if kind == 'deep kwargs':
        state['_init_kwargs'] = {'a': nested(1, 5000)}
    if kind == 'wide modules':  # 2^40 paths through 40 records
        child = Persistent('Leaf', {})
        for _ in range(40):
            child = Persistent('Both', {'_modules': {'a': child, 'b': child}})
        state['_modules'] = {'model': child}
    if kind == 'wide kwargs':
        value = [1] * 10
        for _ in range(7):
            value = [value] * 10
        state['_init_kwargs'] = {'a': value}
    return record


@pytest.mark.parametrize('kind', ['module', 'kwargs', 'deep kwargs', 'wide modules', 'wide kwargs'])
def test_loops_and_explosions(kind, tmp_path):
    import sys

    path, limit = tmp_path / 'evil.pkl', sys.getrecursionlimit()
    sys.setrecursionlimit(40_000)
    try:
        path.write_bytes(dumps({'ema': looping(kind)}))
    finally:
        sys.setrecursionlimit(limit)
    start = time.process_time()
    with pytest.raises(ValueError, match='evil.pkl is refused: .*endless'):
        load_denoiser(path)
    assert time.process_time() - start < 5


def test_scrambled_snapshots_raise_value_errors_alone(tmp_path):
    rng, path = random.Random(3), tmp_path / 'bad.pkl'
    raw = snapshot(path, 'EDMPrecond', tiny(), sigma_data=0.5).read_bytes()
    small = [i for i in range(len(raw)) if not 200 < i % 3000]  # mostly structure
    for trial in range(80):
        scrambled = bytearray(raw[: rng.randrange(len(raw))] if trial % 3 == 0 else raw)
        for _ in range(3):
            scrambled[min(rng.choice(small), len(scrambled) - 1)] = rng.randrange(256)
        path.write_bytes(scrambled)
        try:
            _sniff_edm(read_contents(path))
        except ValueError as error:
            assert str(path) in str(error)


def test_limits_on_size(tmp_path, monkeypatch):
    from difflow.checkpoints import unpickler

    path = snapshot(tmp_path / 'n.pkl', 'EDMPrecond', tiny(), sigma_data=0.5)
    monkeypatch.setattr(unpickler, '_MAX_BYTES', 1000)
    with pytest.raises(ValueError, match='more than 1,000 bytes'):
        load_denoiser(path)
    monkeypatch.setattr(unpickler, '_MAX_BYTES', 1 << 33)
    monkeypatch.setattr(unpickler, '_MAX_TENSORS', 20)
    with pytest.raises(ValueError, match='more tensors than it can hold'):
        load_denoiser(path)
