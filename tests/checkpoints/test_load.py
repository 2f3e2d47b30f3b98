"""Checkpoints: round trips, names and addresses, descriptions."""

import http.server
import json
import os
import threading

import pytest
import torch
from small_models import TELL, answer, small_net

from difflow import (
    DDPMDenoiser,
    EDMDenoiser,
    GaussianDenoiser,
    Scheduler,
    VEDenoiser,
    VPDenoiser,
    export,
    load_denoiser,
    save,
)
from difflow.checkpoints import describe, embedded_models, find_checkpoint
from difflow.checkpoints.catalogue import _PUBLISHED_FILES
from golden import tiny_unet


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
    with pytest.raises(ValueError, match='model_channels is 32 in the file, got 64'):
        load_denoiser(path, model_channels=64)
    scheduler = Scheduler.linear(1000)
    path = save(DDPMDenoiser(small_net(), scheduler), tmp_path / 'y.safetensors')
    same = load_denoiser(path, model_channels=32, schedule='linear', diffusion_steps=1000, prediction='eps')
    assert same.scheduler == scheduler and same.net.config == small_net().config
    with pytest.raises(ValueError, match="schedule is linear in the file, got 'cosine'"):
        load_denoiser(path, schedule='cosine')
    with pytest.raises(ValueError, match='diffusion_steps is 1000 in the file, got 4000'):
        load_denoiser(path, diffusion_steps=4000)
    with pytest.raises(ValueError, match="prediction must be one of .* got 'epsilon'"):
        load_denoiser(path, prediction='epsilon')


def test_export_is_bare(tmp_path):
    from safetensors import safe_open

    net = tiny_unet()
    path = export(DDPMDenoiser(net), tmp_path / 'x.safetensors')
    with safe_open(path, 'pt') as file:
        assert file.metadata() is None and set(file.keys()) == set(net.state_dict())
    assert load_denoiser(path, **TELL).net.config == net.config
    with pytest.raises(ValueError, match='can save'):
        export(GaussianDenoiser(torch.zeros(1, 2, 2), 1.0), path)


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
    model = _PUBLISHED_FILES['adm-imagenet256']
    assert (
        model.url
        == 'https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt'
    )
    monkeypatch.setitem(_PUBLISHED_FILES, 'adm-imagenet256', model._replace(url=f'{url}/tiny.pt'))
    with pytest.raises(ValueError, match='tiny.pt is not what was expected'):
        load_denoiser('adm-imagenet256', **TELL)
    monkeypatch.setitem(
        _PUBLISHED_FILES, 'adm-imagenet256', model._replace(url=f'{url}/tiny.pt', sha256=sha256)
    )
    loaded = load_denoiser('adm-imagenet256', **TELL)
    assert loaded.card['name'] == 'adm-imagenet256' and loaded.card['licence'] == 'MIT'
    assert 'sha256' not in loaded.assumed
    monkeypatch.setitem(
        _PUBLISHED_FILES, 'adm-lsun-cat256', model._replace(url=f'{url}/tiny.pt', sha256=None)
    )
    assert describe('adm-lsun-cat256', **TELL)['assumed']['sha256'].startswith('none is published')
    monkeypatch.chdir(folder)
    (folder / 'adm-imagenet256').write_bytes(
        (folder / 'tiny.pt').read_bytes()
    )  # a file of that name goes first
    assert 'name' not in load_denoiser('adm-imagenet256', **TELL).card
    httpd.shutdown()


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
    assert bare['format'] == 'guided-diffusion U-Net'
    assert bare['parameters'] == found['parameters']
    assert describe(tmp_path / 'x.pt', **TELL)['missing'] == []
