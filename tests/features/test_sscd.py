"""SSCD by any of its files and names, and the shipped descriptor"""

import pytest
import torch
from classy_network import Classy, traced

from difflow import SSCD, load_images, sscd_features
from difflow.data import Preprocess
from difflow.features import SSCDAugmentation, embedded_descriptors, load_descriptor, micro_average_precision
from difflow.features.sscd_published import _PUBLISHED_SSCD, _torchvision_name


def noise(*shape, seed=0):
    "Random bytes"
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def classy():
    torch.manual_seed(0)
    return Classy().eval()


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
    with pytest.raises(ValueError, match="backbone must be one of resnet50, .*, got 'resnet18'"):
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
    from difflow.checkpoints import embedded_models

    assert embedded_descriptors() == ['mnist5k'] and 'mnist5k' not in embedded_models()


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
        s = sscd_features(SSCDAugmentation()(test.tensor(), seed), shipped, 250) @ z.T
        assert micro_average_precision(s, itself) >= 0.9
    same = (test.labels[:, None] == test.labels) & ~itself
    assert ((z @ z.T)[same] > shipped.threshold).float().mean() < 1e-3


def test_shipped_threshold_passes_what_a_sampler_does(shipped):
    "A little noise, a little blur: still the same image; the next digit of the class: a new one"
    test = load_images('mnist5k', split='test')[:300]
    z = sscd_features(test, shipped)
    for kind in (dict(noise=0.3), dict(blur=0.8), dict(warp=0.02)):
        s = (sscd_features(SSCDAugmentation.only(**kind)(test.tensor(), 1), shipped) * z).sum(1)
        assert (s > shipped.threshold).float().mean() > 0.95, kind
