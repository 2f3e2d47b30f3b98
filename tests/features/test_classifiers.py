"""Classifiers that are shipped, files of them, and those of torchvision"""

import pytest
import torch

from difflow import load_images
from difflow.data import to_float
from difflow.features import LayerHooks, SmallClassifier, embedded_classifiers, layer_names, load_classifier
from difflow.features.classifier_training import _accuracy
from difflow.features.classifiers import _Preprocess, save_classifier
from difflow.files import package_file


def test_mnist5k_classifier_on_held_out_digits():
    classifier, images = load_classifier('mnist5k'), load_images('mnist5k', split='test')
    found = _accuracy(classifier, images)
    assert found == classifier.card['accuracy'] and found['digit'] >= 0.98
    assert not classifier.training and not any(p.requires_grad for p in classifier.parameters())
    x = images.tensor(slice(0, 4))
    assert torch.equal(classifier.heads['digit'](classifier.features(x)), classifier(x))


def test_colored_mnist_classifier_reads_three_factors():
    images = load_images('colored_mnist', split='test')
    classifier = load_classifier('colored_mnist')
    visible = images[images.labels[:, 1] != images.labels[:, 2]]
    found = _accuracy(classifier, visible)
    assert list(found) == ['digit', 'background', 'foreground']
    assert min(found['background'], found['foreground']) > 0.98 and found['digit'] > 0.93


def test_embedded_classifiers_are_small_and_no_denoisers(root):
    from difflow.checkpoints import embedded_models

    files = list((root / 'difflow/embedded/classifiers').iterdir())
    assert {f.stem for f in files} == set(embedded_classifiers()) and all(
        f.stat().st_size < 2e6 for f in files
    )
    assert {f.stem for f in (root / 'difflow/embedded').glob('*.safetensors')} == set(embedded_models())


def test_files_keep_the_network(tmp_path):
    torch.manual_seed(1)
    before = SmallClassifier({'a': 3, 'b': 2}, (3, 8, 8), 8).eval()
    path = save_classifier(before, tmp_path / 'mine.safetensors', {'seed': 1}, torch.float32)
    after, x = load_classifier(path), torch.zeros(2, 3, 8, 8)
    assert after.card == {'seed': 1} and after.config == before.config
    assert all(torch.equal(before(x)[head], after(x)[head]) for head in ('a', 'b'))
    (tmp_path / 'text.safetensors').write_text('nothing')
    with pytest.raises(ValueError, match='not a classifier of difflow'):
        load_classifier(tmp_path / 'text.safetensors')
    denoiser = package_file('embedded', 'digits.safetensors')
    with pytest.raises(ValueError, match='not a classifier of difflow'):
        load_classifier(denoiser)
    with pytest.raises(ValueError, match='not a file'):
        load_classifier(tmp_path / 'none.safetensors')
    assert [p.name for p in tmp_path.iterdir() if 'partial' in p.name] == []


def test_convnext_preset_is_the_published_one():
    with torch.device('meta'):
        classifier = load_classifier('convnext_base', weights=None)
    stages = [f'features.{i}.{j}' for i, n in ((1, 3), (3, 3), (5, 27), (7, 3)) for j in range(n)]
    expected = sorted(
        ['features.0', 'features.2', 'features.4', 'features.6', *stages],
        key=lambda n: [int(k) for k in n.split('.')[1:]],
    )
    names = layer_names(classifier)
    assert names == [*expected, 'classifier'] and len(names) == 41
    assert sum(p.numel() for p in classifier.parameters()) == 88_591_464
    shapes, classifier._forward_pre_hooks = [], {}
    see = lambda name, a: shapes.append(tuple(a.shape[1:]))
    with LayerHooks(classifier, names, see) as hooked:
        hooked(torch.empty(1, 3, 224, 224, device='meta'))
    counts = [shapes.count(s) for s in ((128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7), (1000,))]
    assert counts == [4, 4, 28, 4, 1]


def test_torchvision_takes_our_images(tmp_path):
    classifier = load_classifier('squeezenet1_1', weights=None)
    with pytest.raises(ValueError, match='give layers='):
        layer_names(classifier)
    pixels = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    transforms, hooks = classifier.preprocess.transforms, classifier._forward_pre_hooks
    assert torch.equal(classifier.preprocess(to_float(pixels)), transforms(pixels))
    ours = classifier(to_float(pixels))
    classifier._forward_pre_hooks = {}
    assert ours.shape == (2, 1000) and torch.equal(classifier(transforms(pixels)), ours)
    classifier._forward_pre_hooks = hooks
    grey = to_float(pixels[:, :1])
    assert torch.equal(classifier.preprocess(grey), classifier.preprocess(grey.expand(-1, 3, -1, -1)))
    torch.save(classifier.state_dict(), tmp_path / 'weights.pth')
    again = load_classifier('squeezenet1_1', weights=tmp_path / 'weights.pth')
    assert torch.equal(again(to_float(pixels)), ours)
    with pytest.raises(ValueError, match='known are IMAGENET1K_V1'):
        load_classifier('squeezenet1_1', weights='V7')
    with pytest.raises(ValueError, match='unknown classifier'):
        load_classifier('convnext_huge')


def test_truncation_lowers_63_grey_levels():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    cut, whole = (_Preprocess(lambda x: x, truncate)(to_float(levels)) for truncate in (True, False))
    assert torch.equal(whole, levels.expand(-1, 3, -1, -1))
    assert (levels.int() - cut[:, :1].int()).unique().tolist() == [0, 1] and (
        cut[:, :1] != levels
    ).sum() == 63


def test_weights_out_of_reach_are_a_clear_error(monkeypatch):
    from urllib.error import URLError

    from torchvision.models import _api

    def offline(*arguments, **options):
        raise URLError('no route to host')

    monkeypatch.setattr(_api, 'load_state_dict_from_url', offline)
    with pytest.raises(ConnectionError, match='squeezenet1_1-.*no route to host.*weights='):
        load_classifier('squeezenet1_1')
