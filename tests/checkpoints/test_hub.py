"""Names on the hub: a small hub on this machine, its cache, and what is said when something is missing."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from difflow import DiffusersUNet
from difflow.checkpoints.hub import _hub_name, _hub_path, _wanted_files
from diffusers_files import CONFIGS, write_folder
from golden import fill

COMMIT = '0123456789abcdef0123456789abcdef01234567'
SCRIPT = """
import json, sys
from difflow import load_denoiser
for name, options in json.loads(sys.argv[1]):
    try:
        D = load_denoiser(name, **options)
        answer = [type(D).__name__, D.prediction, D.card.get('hub'), float(D.net.conv_out.bias[0])]
    except (ValueError, ConnectionError) as error: answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


class Hub(BaseHTTPRequestHandler):
    "Serves the folders `root`/organisation/name as repositories"

    root, asked = None, []

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def log_message(self, *words):
        pass

    def send(self, code, body=b'', full=True, **headers):
        self.send_response(code)
        for name, value in dict({'Content-Length': str(len(body))}, **headers).items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if full:
            self.wfile.write(body)

    def answer(self, full):
        parts = self.path.split('?')[0].strip('/').split('/')
        api = parts[:2] == ['api', 'models']
        parts = parts[2:] if api else parts
        home = self.root / '/'.join(parts[:2])
        if parts[1] == 'gated':
            return self.send(403, full=full, X_Error_Code='GatedRepo')
        if not home.is_dir():
            return self.send(404, full=full, X_Error_Code='RepoNotFound')
        revision = parts[3] if len(parts) > 3 else 'main'
        if revision not in ('main', 'v1', COMMIT):
            return self.send(404, full=full, X_Error_Code='RevisionNotFound')
        if api:
            files = sorted(str(f.relative_to(home)) for f in home.rglob('*') if f.is_file())
            info = dict(id='/'.join(parts[:2]), sha=COMMIT, siblings=[dict(rfilename=f) for f in files])
            return self.send(200, json.dumps(info).encode(), full)
        file = '/'.join(parts[4:])
        if not (home / file).is_file():
            return self.send(404, full=full, X_Error_Code='EntryNotFound')
        if full:
            self.asked.append(file)
        body = (home / file).read_bytes()
        tag = hashlib.sha1(body).hexdigest()
        self.send(200, body, full, X_Repo_Commit=COMMIT, ETag=f'"{tag}"')


def put(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    "A hub with three models, and the settings that lead to it"
    pytest.importorskip('huggingface_hub')
    home = tmp_path_factory.mktemp('hub')
    tensors = fill(DiffusersUNet(**CONFIGS['plain'])).state_dict()
    model = home / 'repositories' / 'me' / 'model'
    scheduler = dict(_class_name='PNDMScheduler', prediction_type='v_prediction')
    write_folder(model, CONFIGS['plain'], tensors, scheduler, pipeline=True)
    for unwanted in ('unet/diffusion_pytorch_model.bin', 'text_encoder/model.safetensors', 'README.md'):
        (model / unwanted).parent.mkdir(exist_ok=True)
        (model / unwanted).write_bytes(b'x')
    write_folder(home / 'repositories' / 'me' / 'bare', CONFIGS['plain'], tensors)
    for name in ('a.pt', 'b.pt'):
        (home / 'repositories' / 'me' / 'two').mkdir(exist_ok=True)
        (home / 'repositories' / 'me' / 'two' / name).write_bytes(b'x')
    Hub.root = home / 'repositories'
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = dict(HF_HOME=str(home / 'cache'), HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}')
    settings |= dict(HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    yield settings, tensors['conv_out.bias'][0].item()
    server.shutdown()


def asked(folder, settings, *names):
    "Return what `load_denoiser` answers in a process with these settings"
    calls = [name if isinstance(name, tuple) else (name, {}) for name in names]
    unset = {name: v for name, v in os.environ.items() if not name.startswith('HF_')}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')])
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SCRIPT, json.dumps(calls)], cwd=folder, text=True,
        env=unset | settings | dict(PYTHONPATH=path), capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_small_hub_and_its_cache(hub, tmp_path):
    settings, bias = hub
    (tmp_path / 'here').mkdir()
    write_folder(
        tmp_path / 'me' / 'bare', CONFIGS['plain'], fill(DiffusersUNet(**CONFIGS['plain'])).state_dict(),
        dict(prediction_type='sample'),
    )  # fmt: skip
    names = (
        'me/model',
        'me/model@v1',
        'me/model:unet',
        'me/gated',
        'me/nothing',
        'me/model@v7',
        'me/two',
        'me/bare',
    )
    model, tag, inside, gated, nothing, revision, two, local = asked(tmp_path, settings, *names)
    assert model == ['DDPMDenoiser', 'v', 'me/model', pytest.approx(bias)]
    assert tag[:2] == model[:2] and inside[:2] == model[:2]
    assert set(Hub.asked) == {
        'model_index.json', 'unet/config.json', 'unet/diffusion_pytorch_model.safetensors',
        'scheduler/scheduler_config.json',
    } - ({'model_index.json'} - set(Hub.asked))  # fmt: skip
    assert gated[0] == 'ValueError' and 'me/gated is gated: accept its licence' in gated[1]
    assert nothing[0] == 'ValueError' and 'neither a file here nor a model of the hub' in nothing[1]
    assert revision[1] == "me/model has no revision 'v7'"
    assert 'it has 2 files of weights, give one as :FILE: a.pt, b.pt' in two[1]
    assert local[1:3] == ['x0', None]  # a folder of that name goes first
    for answer in (gated, nothing, revision, two):
        assert '\n' not in answer[1]
    offline = settings | dict(HF_HUB_OFFLINE='1')
    again, absent = asked(tmp_path / 'here', offline, 'me/model', 'me/bare')
    assert again == model
    assert absent[0] == 'ConnectionError' and 'nor in the cache' in absent[1] and '\n' not in absent[1]


def test_names():
    assert _hub_name('me/mine@v1:a/b.pt') == ('me/mine', 'v1', 'a/b.pt')
    for text in ('a/b/c', 'runs/model.safetensors', '../a', 'a/b:/x', 'a/b:../../x', 'a b/c', 'http://a/b'):
        assert _hub_name(text) is None


def test_one_kind_of_weights_and_those_asked_for():
    files = [f'unet/diffusion_pytorch_model{end}' for end in ('.bin', '.fp16.safetensors', '.fp16.bin')]
    files += ['unet/config.json', 'unet_ema/config.json', 'unet_ema/diffusion_pytorch_model.safetensors']
    wanted = _wanted_files(files)
    assert 'unet/diffusion_pytorch_model.bin' in wanted and files[1] not in wanted and files[2] not in wanted
    assert 'unet_ema/diffusion_pytorch_model.safetensors' in wanted
    assert files[1] in _wanted_files(files, variant='fp16')
    index = 'unet/diffusion_pytorch_model.safetensors.index.json'
    assert index in _wanted_files(['unet/config.json', index, files[1]])
    single = _wanted_files(['scheduler/scheduler_config.json', *files], files[1])
    assert single == [files[1], 'unet/config.json', 'scheduler/scheduler_config.json']


def test_a_hub_that_is_not_reached(monkeypatch):
    hub = pytest.importorskip('huggingface_hub')

    def refuse(*args, **kwargs):
        raise ConnectionRefusedError('no')

    monkeypatch.setattr(hub.HfApi, 'model_info', refuse)
    with pytest.raises(ConnectionError, match='nobody/nothing-at-all is neither a file here nor in'):
        _hub_path('nobody/nothing-at-all')
