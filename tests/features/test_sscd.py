"""SSCD: Pillow's bytes, the published layouts, hostile files, features that go on where they stopped, the shipped descriptor."""

import json
import pickle
import subprocess
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from difflow.data.canvas import save_images, to_float
from difflow.data.resizing import Preprocess, _pillow_weights, _torch_is_pillow, resize_bilinear
from difflow.data.sets import load_images
from difflow.features.sscd import (
    SSCD,
    _seeds_of,
    check_features,
    embedded_descriptors,
    load_descriptor,
    load_features,
    sscd_features,
)
from difflow.features.sscd_published import (
    _PUBLISHED_SSCD,
    _architecture_of,
    _is_torchscript,
    _read_torchscript,
    _torchvision_name,
)
from difflow.features.sscd_training import (
    _Augment,
    _entropy_loss,
    _gaussian_blur,
    _info_nce,
    _mixup,
    micro_average_precision,
    train_sscd,
)

def noise(*shape, seed=0):
    "Random bytes"
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pillow(images, size):
    "Resize each image as a whole by Pillow, RGB pixels together"
    rows = []
    for image in images.permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        rows.append(np.asarray(picture.resize(size[::-1], Image.BILINEAR)).reshape(*size, -1))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


# Preprocessing


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 110),
    st.integers(1, 110),
    st.integers(1, 130),
    st.integers(1, 130),
    st.sampled_from([1, 3]),
    st.integers(0, 99),
)
def test_resize_is_pillows(height, width, tall, wide, channels, seed):
    images = noise(2, channels, height, width, seed=seed)
    assert torch.equal(resize_bilinear(images, (tall, wide)), pillow(images, (tall, wide)))


@pytest.mark.parametrize('side', [28, 32, 64])
@pytest.mark.parametrize('size', [288, 320])
@pytest.mark.parametrize('channels', [1, 3])
def test_resize_of_the_study_is_pillows(side, size, channels):
    images = noise(6, channels, side, side)
    images[1] = images[1] // 128 * 255  # extremes
    assert torch.equal(resize_bilinear(images, (size, size)), pillow(images, (size, size)))


def test_weights_are_those_that_pillow_shows():
    "A column of 255 among 0 shows its weight, rounded to 8 bits"
    columns = (torch.eye(12) * 255).to(torch.uint8)[:, None, None].expand(12, 1, 3, 12).contiguous()
    shown = pillow(columns, (3, 31))[:, 0, 0].double()
    assert ((_pillow_weights(12, 31).T * 255) - shown).abs().max() <= 0.5 + 1e-6
    assert (_pillow_weights(12, 31).sum(1) - 1).abs().max() < 1e-6


def test_check_of_torch_finds_the_known_difference():
    assert _torch_is_pillow(32, 320) and not _torch_is_pillow(28, 288) and not _torch_is_pillow(32, 16)
    images = noise(2, 3, 28, 28)
    theirs = F.interpolate(images, (288, 288), mode='bilinear', antialias=True)
    assert not torch.equal(theirs, pillow(images, (288, 288)))


@pytest.mark.parametrize(
    'resize, steps, shape',
    [
        ('square-320', (320, 320), (32, 32)),
        ('short-288', 288, (48, 75)),
        ('short-288', 288, (75, 48)),
        ('short-288', 288, (300, 431)),
    ],
)
def test_preprocessing_is_torchvisions_to_the_last_bit(resize, steps, shape):
    from torchvision import transforms as T

    route = T.Compose(
        [
            T.ToPILImage(),
            T.Resize(steps),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = noise(3, 3, *shape)
    wanted = torch.stack([route(image) for image in images])
    assert torch.equal(Preprocess(resize)(images), wanted)
    assert torch.equal(Preprocess(resize)(to_float(images)), wanted)  # floats are rounded to bytes first
    buffer = torch.full((5, *wanted.shape[1:]), 7.0)
    assert torch.equal(Preprocess(resize)(images, out=buffer), wanted) and (buffer[3:] == 7).all()


def test_grey_is_repeated():
    grey = noise(2, 1, 30, 30)
    assert torch.equal(Preprocess()(grey), Preprocess()(grey.expand(-1, 3, -1, -1).contiguous()))


@pytest.mark.cuda
def test_resize_is_the_same_on_a_gpu():
    for side, size in ((28, 288), (32, 320), (40, 320)):
        images = noise(4, 3, side, side)
        assert torch.equal(resize_bilinear(images.cuda(), (size, size)).cpu(), pillow(images, (size, size)))


# The published layouts, made with random weights: `Classy` is written from the description of its names


class Bottleneck(nn.Module):
    def __init__(self, width, middle, out, stride, groups):
        super().__init__()
        conv = lambda a, b, *rest, **kw: nn.Conv2d(a, b, *rest, bias=False, **kw)
        self.convolutional_block = nn.Sequential(
            conv(width, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            conv(middle, middle, 3, stride, 1, groups=groups),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            conv(middle, out, 1),
        )
        self.bn = nn.BatchNorm2d(out)
        self.downsample = None
        if width != out:
            self.downsample = nn.Sequential(conv(width, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn(self.convolutional_block(x)) + skip)


class Classy(nn.Module):
    "A residual network of the names backbone.initial_block, backbone.blocks.i.blocki-j, embeddings.1"

    def __init__(self, layers=(3, 4, 6, 3), groups=1, width_per_group=64, dims=512):
        super().__init__()
        self.backbone, stem = nn.Module(), nn.Module()
        stem._module = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.backbone.initial_block, width, stages = stem, 64, []
        for i, count in enumerate(layers):
            stage = nn.Sequential()
            for j in range(count):
                stage.add_module(
                    f'block{i}-{j}',
                    Bottleneck(
                        width, groups * width_per_group * 2**i, 256 * 2**i, 2 if i and not j else 1, groups
                    ),
                )
                width = 256 * 2**i
            stages.append(stage)
        self.backbone.blocks = nn.Sequential(*stages)
        self.embeddings = nn.Sequential(nn.Identity(), nn.Linear(2048, dims))

    def forward(self, x):
        h = self.backbone.blocks(self.backbone.initial_block._module(x))
        pooled = h.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        return F.normalize(self.embeddings(pooled), dim=1)


@pytest.fixture(scope='module')
def classy():
    torch.manual_seed(0)
    return Classy().eval()


def traced(model, path):
    "Save `model` as a TorchScript program"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        torch.jit.trace(model, torch.zeros(1, 3, 64, 64), check_trace=False).save(str(path))
    return path


@torch.no_grad()
def test_all_layouts_of_resnet50_give_one_descriptor(classy, tmp_path):
    torch.save(classy.state_dict(), tmp_path / 'sscd_disc_mixup.classy.pt')
    torch.save(
        {_torchvision_name(n): t for n, t in classy.state_dict().items()},
        tmp_path / 'sscd_disc_mixup.torchvision.pt',
    )
    traced(classy, tmp_path / 'sscd_disc_mixup.torchscript.pt')
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    wanted, hashes = classy(x), set()
    for layout in ('classy', 'torchvision', 'torchscript'):
        model = load_descriptor(tmp_path / f'sscd_disc_mixup.{layout}.pt')
        torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=0)
        assert model.config == dict(backbone='resnet50', dims=512, p=3.0) and model.threshold == 0.75
        assert not model.training and model.preprocess == Preprocess('square-320')
        hashes.add(model.sha256)
    assert len(hashes) == 1  # whatever the file, it is the same model


@pytest.mark.slow
@torch.no_grad()
def test_resnext_is_read(tmp_path):
    torch.manual_seed(0)
    large = Classy((3, 4, 23, 3), 32, 4, 1024).eval()
    torch.save(large.state_dict(), tmp_path / 'sscd_disc_large.classy.pt')
    model = load_descriptor(tmp_path / 'sscd_disc_large.classy.pt', resize='short-288')
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), large(x), atol=1e-5, rtol=0)
    assert model.config['backbone'] == 'resnext101_32x4d' and model.config['dims'] == 1024
    assert model.threshold == 0.6 and model.preprocess.resize == 'short-288'


def test_resnext_is_recognised_and_fits():
    "Names and shapes alone, without numbers"
    with torch.device('meta'):
        large, ours = Classy((3, 4, 23, 3), 32, 4, 1024), SSCD('resnext101_32x4d', 1024)
    config, tensors = _architecture_of(large.state_dict())
    assert config == dict(backbone='resnext101_32x4d', dims=1024)
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in ours.state_dict().items()}


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda w: w | {'backbone.head.weight': torch.zeros(2)}, '1 unexpected: backbone.head.weight'),
        (lambda w: {n: t for n, t in w.items() if 'conv1' not in n}, 'missing: backbone.conv1.weight'),
        (
            lambda w: {n: t for n, t in w.items() if 'layer4.2' not in n},
            "no network of SSCD: {'layers': (3, 4, 6, 2)",
        ),
        (
            lambda w: w | {'backbone.conv1.weight': torch.zeros(64, 1, 7, 7)},
            'of another shape: backbone.conv1.weight',
        ),
        (lambda w: {n.removeprefix('backbone.'): t for n, t in w.items()}, 'no layout of SSCD'),
        (lambda w: {'a': torch.zeros(1)}, 'no layout of SSCD'),
        (lambda w: {}, 'empty dict'),
    ],
)
def test_wrong_layouts_are_refused(classy, tmp_path, change, message):
    weights = {_torchvision_name(n): t for n, t in classy.state_dict().items()}
    torch.save(change(weights), tmp_path / 'model.pt')
    with pytest.raises(ValueError) as error:
        load_descriptor(tmp_path / 'model.pt')
    assert message in str(error.value) and 'model.pt' in str(error.value)


# TorchScript files are read, never run


def archive(path, data, root='model', **files):
    "Write a zip like TorchScript's around the pickle `data`"
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in {'data.pkl': data, 'constants.pkl': b'\x80\x02).', **files}.items():
            z.writestr(f'{root}/{name}', content)
    return path


class Call:
    "Pickle to a call of `function`"

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize(
    'function, arguments, name',
    [
        (__import__('os').system, ('touch {}',), 'posix.system'),
        (eval, ("open('{}', 'w')",), '__builtin__.eval'),
        (subprocess.Popen, (['touch', '{}'],), 'commands.Popen'),
        (torch.load, ('{}',), 'torch.serialization.load'),
        (getattr, ('text', 'upper'), '__builtin__.getattr'),
    ],
)
def test_hostile_programs_run_nothing(tmp_path, function, arguments, name):
    proof = tmp_path / 'it-ran'
    fill = lambda a: (
        a.format(proof) if isinstance(a, str) else [fill(b) for b in a] if isinstance(a, list) else a
    )
    data = pickle.dumps({'weight': Call(function, *map(fill, arguments))}, 2)
    file = archive(tmp_path / 'model.pt', data)
    assert _is_torchscript(file)
    for read in (_read_torchscript, load_descriptor):
        with pytest.raises(ValueError, match='nothing in it was run') as error:
            read(file)
        assert name in str(error.value) and not proof.exists()


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\x80\x02.',
        b'\x80\x02}q\x00h\x00.',
        b'\x80\x02K\x01.',
        pickle.dumps('text', 2),
        b'\x80\x02c__torch__.M\nM\nq\x00)\x81}q\x01X\x01\x00\x00\x00aq\x02h\x00sb.',
    ],
)
def test_damaged_programs_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match='model.pt'):
        _read_torchscript(archive(tmp_path / 'model.pt', data))


def test_a_module_that_holds_itself_is_refused(tmp_path):
    "An object whose attribute is the object: BUILD it with itself"
    data = b'\x80\x02c__torch__.M\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.'
    with pytest.raises(ValueError, match='endless'):
        _read_torchscript(archive(tmp_path / 'model.pt', data))


def test_shapes_that_leave_their_numbers_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(nn.Linear(3, 2)).save(str(tmp_path / 'good.pt'))
    with zipfile.ZipFile(tmp_path / 'good.pt') as z:
        files = {n.split('/', 1)[1]: z.read(n) for n in z.namelist()}
    assert _read_torchscript(tmp_path / 'good.pt')['weight'].shape == (2, 3)
    short = dict(files) | {'data/0': files['data/0'][:8]}
    data = short.pop('data.pkl')
    short.pop('constants.pkl')
    with pytest.raises(ValueError, match='cut short'):
        _read_torchscript(archive(tmp_path / 'short.pt', data, **short))


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_at_once(tmp_path):
    bomb = tmp_path / 'bomb.pt'
    with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('model/constants.pkl', b'\x80\x02).')
        z.writestr('model/data.pkl', b'\x80\x02]' + b']a' * 5_000_000 + b'.')
    start = time.process_time()
    with pytest.raises(ValueError, match='data.pkl is compressed'):
        _read_torchscript(bomb)
    assert time.process_time() - start < 1
    assert bomb.stat().st_size < 50_000


def test_limits_of_programs(tmp_path):
    many = b'\x80\x02]' + b']a' * 1_100_000 + b'.'
    with pytest.raises(ValueError, match='more than 2,000,000 instructions'):
        _read_torchscript(archive(tmp_path / 'a.pt', many))
    # a record whose two attributes are one record, whose two attributes are one record, ...: 2**25 paths
    nested = b'\x80\x02c__torch__.M\nM\nq\x00)\x81q\x01'
    for i in range(1, 26):
        pair = b'}(X\x01\x00\x00\x00ah' + bytes([i]) + b'X\x01\x00\x00\x00bh' + bytes([i]) + b'u'
        nested += b'h\x00)\x81q' + bytes([i + 1]) + pair + b'b'
    with pytest.raises(ValueError, match='endless'):
        _read_torchscript(archive(tmp_path / 'b.pt', nested + b'.'))
    # a tensor of 4,000,000 numbers that are one number, by a stride of 0
    storage = b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ'
    tensor = storage + b'K\x00(J\x00\x09\x3d\x00t(K\x00t\x89ccollections\nOrderedDict\n)RtR'
    data = b'\x80\x02c__torch__.M\nM\n)\x81}X\x01\x00\x00\x00w' + tensor + b'sb.'
    file = archive(tmp_path / 'c.pt', data, **{'data/0': b'\0' * 4})
    with pytest.raises(ValueError, match='a tensor is larger than its numbers'):
        _read_torchscript(file)


# Names


def test_the_place_of_the_study_comes_first(monkeypatch, tmp_path, classy):
    import urllib.request

    def refuse(*a, **k):
        raise AssertionError('it asks the network')

    monkeypatch.setattr(urllib.request, 'urlopen', refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pretrainedmodels').mkdir()
    traced(classy, tmp_path / 'pretrainedmodels' / 'sscd_disc_large.torchscript.pt')
    loaded = load_descriptor('sscd_disc_large')
    x = loaded.preprocess(noise(2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), classy(x), atol=1e-5, rtol=0)
    assert loaded.threshold == 0.6


def test_offline_message_says_what_to_do(monkeypatch, tmp_path):
    import urllib.request

    def refuse(*a, **k):
        raise OSError('no route to host')

    monkeypatch.setattr(urllib.request, 'urlopen', refuse)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(ConnectionError) as error:
        load_descriptor('sscd_disc_large')
    assert _PUBLISHED_SSCD['sscd_disc_large'] in str(error.value) and "'mnist5k' needs no download" in str(
        error.value
    )


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match='shipped: mnist5k; to download: sscd_disc_blur'):
        load_descriptor('sscd')
    with pytest.raises(ValueError, match='resnet18.: known are resnet50'):
        SSCD('resnet18')


def test_a_denoiser_is_no_descriptor(root):
    with pytest.raises(ValueError, match='it is a denoiser'):
        load_descriptor(root / 'difflow/embedded/mnist.safetensors')


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    model = SSCD('small', 16, widths=(8, 8, 16), threshold=0.5, card={'data': 'none'}).eval()
    loaded = load_descriptor(model.save(tmp_path / 'a.safetensors'))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded(x), model(x)) and loaded.threshold == 0.5 and loaded.card == {'data': 'none'}
    assert loaded.sha256 == model.sha256 and loaded.preprocess == model.preprocess
    assert load_descriptor(tmp_path / 'a.safetensors', threshold=0.9).threshold == 0.9
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert loaded.sha256 != model.sha256


def test_descriptors_are_not_listed_as_denoisers():
    from difflow.checkpoints.load import embedded_models

    assert embedded_descriptors() == ['mnist5k'] and 'mnist5k' not in embedded_models()


# Features


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return SSCD('small', 16, widths=(8, 8, 16)).eval()


@pytest.fixture(scope='module')
def digits():
    return load_images('mnist5k', split='test', max_images=100)


def test_features_are_those_of_the_network(small, digits):
    with torch.no_grad():
        wanted = small(digits.tensor())
    for batch_size in (1, 7, 100, 1000):
        torch.testing.assert_close(sscd_features(digits, small, batch_size), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(digits.images, small), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(digits.tensor(), small), wanted, atol=1e-6, rtol=0)


def test_sources_agree(small, digits, tmp_path):
    save_images(digits, tmp_path / 'folder')
    with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as z:
        for file in sorted((tmp_path / 'folder').iterdir()):
            z.write(file, file.name)
    np.savez(tmp_path / 'set.npz', images=digits.images[:, 0].numpy())
    wanted = sscd_features(digits, small)
    for source in ('folder', 'set.zip', 'set.npz'):
        assert torch.equal(sscd_features(tmp_path / source, small), wanted)


def test_file_tells_where_it_comes_from(small, digits, tmp_path):
    wanted = sscd_features(digits, small, out=tmp_path / 'f.npz', seeds=range(100_000, 100_100))
    with np.load(tmp_path / 'f.npz') as data:  # what the published code reads
        assert data['features'].dtype == np.float32 and np.array_equal(data['features'], wanted.numpy())
    found = load_features(tmp_path / 'f.npz')
    assert found.names == digits.names and found.seeds.tolist() == list(range(100_000, 100_100))
    assert found.model == small.sha256 and found.preprocess == json.loads(json.dumps(vars(small.preprocess)))
    assert not (tmp_path / 'f.npz.parts').exists()


def test_finished_file_is_not_made_again(small, digits, tmp_path):
    calls = []
    sscd_features(digits, small, out=tmp_path / 'f.npz')
    again = sscd_features(digits, small, out=tmp_path / 'f.npz', callback=lambda *a: calls.append(a))
    assert calls == [] and torch.equal(again, sscd_features(digits, small))
    other = SSCD('small', 16, widths=(8, 8, 16))
    with pytest.raises(ValueError, match='another model'):
        sscd_features(digits, other, out=tmp_path / 'f.npz')
    with pytest.raises(ValueError, match='another model, preprocessing or set'):
        sscd_features(digits[:50], small, out=tmp_path / 'f.npz')


def test_shards_make_the_same_file(small, digits, tmp_path):
    sscd_features(digits, small, 16, out=tmp_path / 'one.npz')
    shards = [sscd_features(digits, small, 16, out=tmp_path / 'many.npz', shard=(i, 3)) for i in (2, 0, 1)]
    assert [s is None for s in shards] == [True, True, False]
    assert (tmp_path / 'one.npz').read_bytes() == (tmp_path / 'many.npz').read_bytes()


def test_parts_of_another_run_are_not_mixed_in(small, digits, tmp_path):
    sscd_features(digits, small, 16, out=tmp_path / 'f.npz', shard=(0, 2))
    with pytest.raises(ValueError, match='other batch_size: delete it'):
        sscd_features(digits, small, 32, out=tmp_path / 'f.npz', shard=(1, 2))
    changed = load_images('mnist5k', split='test', max_images=100)
    changed.images[0] += 1
    with pytest.raises(ValueError, match='other images'):
        sscd_features(changed, small, 16, out=tmp_path / 'f.npz')


def test_photographs_of_several_sizes_become_squares(tmp_path):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8), channels=3, preprocess=Preprocess('square-32')).eval()
    pictures = [noise(1, c, h, w, seed=h) for c, h, w in ((3, 40, 50), (1, 33, 20), (3, 64, 64))]
    for i, p in enumerate(pictures):
        save_images(p, tmp_path, [f'{i}.png'])
    with torch.no_grad():
        wanted = torch.cat([model(model.preprocess(p)) for p in pictures])
    torch.testing.assert_close(sscd_features(tmp_path, model), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(sscd_features(tmp_path, model, 2), wanted, atol=1e-6, rtol=0)
    model.preprocess = Preprocess('short-32')
    with pytest.raises(ValueError, match=r'0.png is \(3, 40, 50\)'):
        sscd_features(tmp_path, model)


def test_files_of_one_size_are_prepared_together(monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8), channels=3, preprocess=Preprocess('square-32')).eval()
    pictures, sizes = noise(7, 3, 20, 20), []
    save_images(pictures, tmp_path, [f'{i}.png' for i in range(7)])
    whole = Preprocess.__call__
    monkeypatch.setattr(
        Preprocess, '__call__', lambda self, x, *rest: sizes.append(len(x)) or whole(self, x, *rest)
    )
    found = sscd_features(tmp_path, model, 3)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(found, sscd_features(pictures, model), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    'names, seeds', [(['000003.png', 'a/000001.jpg'], [3, 1]), (['x3.png'], None), (['3.png', 'b.png'], None)]
)
def test_seeds_are_read_off_names(names, seeds):
    found = _seeds_of(names)
    assert (found if found is None else found.tolist()) == seeds


@pytest.mark.parametrize(
    'arrays, message',
    [
        (dict(feature=np.eye(3)), r"has the keys \['feature'\]"),
        (dict(features=np.eye(3), extra=1), r"'extra'"),
        (dict(features=2 * np.eye(3)), '3 of 3 rows are not of length 1, row 0 has 2'),
        (dict(features=np.full((2, 3), np.nan)), '2 of 2 rows'),
        (dict(features=np.zeros((0, 3))), 'none of them 0'),
        (dict(features=np.eye(3).astype(int)), 'must be floats'),
        (dict(features=np.eye(3)[0]), r'must be floats \(N, dims\)'),
        (dict(features=np.eye(3), names=np.array(['a'])), '1 names for 3 features'),
        (dict(features=np.eye(3), seeds=np.arange(4)), '4 seeds for 3 features'),
    ],
)
def test_bad_feature_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'f.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        load_features(tmp_path / 'f.npz')


def test_pickled_or_damaged_feature_files_are_refused(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match='unreadable npz'):
        load_features(tmp_path / 'f.npz')
    (tmp_path / 'g.npz').write_bytes(b'PK nothing')
    with pytest.raises(ValueError, match='unreadable npz'):
        load_features(tmp_path / 'g.npz')


def test_features_by_the_study_are_read(tmp_path):
    np.savez(tmp_path / 'f.npz', features=np.eye(3, dtype=np.float32))
    found = load_features(tmp_path / 'f.npz')
    assert torch.equal(found.features, torch.eye(3)) and found[1:] == (None, None, None, None)
    assert torch.equal(check_features(np.eye(3)), torch.eye(3))


@pytest.mark.parametrize(
    'images, message',
    [
        (torch.zeros(0, 1, 28, 28), 'at least one image'),
        (torch.zeros(1, 1, 27, 28), 'sides of 28..32'),
        (torch.zeros(1, 1, 33, 33), 'sides of 28..32'),
        (torch.zeros(1, 3, 28, 28), 'C = 1'),
        (torch.full((1, 1, 28, 28), float('nan')), 'NaN'),
    ],
)
def test_bad_images_are_refused(small, images, message):
    with pytest.raises(ValueError, match=message):
        sscd_features(images, small)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=0), 'batch_size=0'),
        (dict(shard=(2, 2), out='x'), r'shard=\(2, 2\)'),
        (dict(shard=(0, 2)), 'needs out='),
        (dict(seeds=[1]), '1 seeds for 100 images'),
    ],
)
def test_bad_options_are_refused(small, digits, options, message):
    with pytest.raises(ValueError, match=message):
        sscd_features(digits, small, **options)


def test_training_mode_does_not_leak_into_features(small, digits):
    wanted = sscd_features(digits, small)
    small.train()
    assert torch.equal(sscd_features(digits, small, 10), sscd_features(digits, small.eval(), 10))
    torch.testing.assert_close(sscd_features(digits, small), wanted)


# Training and judging


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10**6))
def test_micro_average_precision_is_scikit_learns(queries, references, seed):
    from sklearn.metrics import average_precision_score

    g = torch.Generator().manual_seed(seed)
    scores, match = (
        torch.randn(queries, references, generator=g),
        torch.rand(queries, references, generator=g) < 0.3,
    )
    match[0, 0] = True
    wanted = average_precision_score(match.flatten().numpy(), scores.flatten().numpy())
    assert micro_average_precision(scores, match) == pytest.approx(wanted, abs=1e-9)
    ties = scores.round()  # equal scores: no better than any order of them
    orders = [
        average_precision_score(
            match.flatten().numpy(), (ties + 1e-3 * torch.rand(ties.shape, generator=g)).flatten().numpy()
        )
        for _ in range(5)
    ]
    assert micro_average_precision(ties, match) <= min(orders) + 1e-9


def test_losses_take_several_copies_and_rows_without_any():
    z = F.normalize(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    match = torch.zeros(5, 5, dtype=torch.bool)
    match[:3, :3] = True  # three views of one image; two views are alone
    s, wanted = z @ z.T, 0
    for i in range(3):
        others = sum(torch.exp(s[i, k] / 0.1) for k in (3, 4)) + 1e-6
        wanted += (
            sum(
                -torch.log(torch.exp(s[i, j] / 0.1) / (torch.exp(s[i, j] / 0.1) + others))
                for j in range(3)
                if j != i
            )
            / 2
            / 3
        )
    torch.testing.assert_close(_info_nce(s, match, 0.1), wanted)
    assert _entropy_loss(torch.ones(4, 4), torch.eye(4, dtype=torch.bool)).isfinite()  # all in one place


@pytest.mark.parametrize('shape', [(5, 1, 28, 28), (3, 3, 32, 24)])
def test_distortions_keep_shape_range_and_seed(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    once, again, other = _Augment()(x, 1), _Augment()(x, 1), _Augment()(x, 2)
    assert once.shape == x.shape and once.min() >= -1 and once.max() <= 1
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_blur_is_a_gaussian():
    "The response to a point, away from the edges, is the density of a normal distribution"
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    d = torch.arange(41) - 20.0
    one = torch.exp(-(d**2) / (2 * 2.5**2)) / (2.5 * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(
        _gaussian_blur(point, torch.tensor([2.5]))[0, 0], one[:, None] * one, atol=1e-6, rtol=0
    )


def test_mixed_views_are_what_their_weights_say():
    views = torch.arange(8.0)[:, None, None, None].expand(8, 1, 20, 20)  # view i is the constant i
    mixed, weights = _mixup(views, torch.eye(8), share=1.0, seed=3)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), weights @ torch.arange(8.0), atol=1e-4, rtol=0)
    assert ((weights > 0).sum(1) <= 2).all()


def test_training_repeats_itself_and_leaves_its_model_alone(digits):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8))
    before = model.sha256
    one, two = (
        train_sscd(model, digits, steps=4, batch_size=16, mixup=0.2, progress=False) for _ in range(2)
    )
    assert model.sha256 == before and one.model.sha256 == two.model.sha256 != before
    assert torch.equal(one.losses, two.losses) and not one.model.training
    other = train_sscd(model, digits, steps=4, batch_size=16, seed=1, progress=False)
    assert other.model.sha256 != one.model.sha256


def test_colour_descriptors_are_trained_too():
    torch.manual_seed(0)
    model = SSCD('small', 8, channels=3, widths=(8, 8, 8))
    colours = load_images('colored_mnist', max_images=32)
    done = train_sscd(model, colours, steps=2, batch_size=16, progress=False)
    assert done.losses.isfinite().all() and sscd_features(colours, done.model).shape == (32, 8)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(steps=0), 'steps=0'),
        (dict(batch_size=1), 'batch_size=1'),
        (dict(mixup=2), 'mixup=2'),
        (dict(batch_size=101), 'there are 100 images'),
    ],
)
def test_bad_settings_are_refused(small, digits, options, message):
    with pytest.raises(ValueError, match=message):
        train_sscd(small, digits, progress=False, **options)


# The descriptor that is shipped


@pytest.fixture(scope='module')
def shipped():
    return load_descriptor('mnist5k')


def test_shipped_descriptor_has_a_card_and_is_small(root, shipped):
    file = root / 'difflow/embedded/descriptors/mnist5k.safetensors'
    assert (
        file.stat().st_size < 6e6
        and {'data', 'recipe', 'seconds', 'calibration', 'limits'} <= shipped.card.keys()
    )
    assert 0 < shipped.threshold < 1 and shipped.config['dims'] in range(64, 129)
    assert SSCD.load('mnist5k').sha256 == shipped.sha256


def test_shipped_descriptor_finds_the_source_of_a_copy(shipped):
    test = load_images('mnist5k', split='test')
    z, itself = sscd_features(test, shipped, 250), torch.eye(1000, dtype=torch.bool)
    for seed in (1, 2):  # draws of the distortions that the notebook does not show
        s = sscd_features(_Augment()(test.tensor(), seed), shipped, 250) @ z.T
        assert micro_average_precision(s, itself) >= 0.9
    same = (test.labels[:, None] == test.labels) & ~itself
    assert ((z @ z.T)[same] > shipped.threshold).float().mean() < 1e-3


def test_shipped_threshold_passes_what_a_sampler_does(shipped):
    "A little noise, a little blur: still the same image; the next digit of the class: a new one"
    test = load_images('mnist5k', split='test')[:300]
    z = sscd_features(test, shipped)
    for kind in (dict(noise=0.3), dict(blur=0.8), dict(warp=0.02)):
        s = (sscd_features(_Augment.only(**kind)(test.tensor(), 1), shipped) * z).sum(1)
        assert (s > shipped.threshold).float().mean() > 0.95, kind
