"""The published sets: folders that are wrong, and training on random crops that resumes."""

import numpy as np
import pytest
import torch
from PIL import Image

from difflow import ImageSet, load_images
from difflow.data import PUBLISHED_SETS, published_images, published_set, save_images, write_mnist_m
from difflow.data.builtin import _mnist_m
from difflow.data.studies import _PREPARED


def picture(width, height, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def digits(count=40):
    return {part: load_images('mnist5k', max_images=count, split=part) for part in ('train', 'test')}


@pytest.mark.parametrize('name', PUBLISHED_SETS)
def test_transforms_end_at_the_published_size(name):
    known = PUBLISHED_SETS[name]
    for rng in (None, np.random.default_rng(1)):
        image = picture(
            *((28, 28) if known.image_size == 28 else (32, 32) if name == 'cifar10' else (120, 95))
        )
        for cut in known.transform:
            image = cut(image, rng)
        assert image.size == (known.image_size,) * 2


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match='flowers is not in .*put its 2040 train images'):
        published_set('flowers', tmp_path)
    with pytest.raises(ValueError, match='melanoma has no test images'):
        published_set('melanoma', tmp_path, 'test')
    with pytest.raises(ValueError, match="split='val'"):
        published_set('mnist', tmp_path, 'val')
    with pytest.raises(ValueError, match="'imagenet': known are mnist"):
        published_set('imagenet', tmp_path)
    save_images(torch.zeros(2, 3, 70, 80), tmp_path / 'afhq/train', ['cat/1', 'dog/1'])
    with pytest.raises(ValueError, match='afhq has 3 classes, .* has 2: cat, dog'):
        published_set('afhq', tmp_path)


def test_forty_three_numbered_folders_are_the_labels(tmp_path):
    for c in range(43):
        (tmp_path / f'gtsrb/train/{c}').mkdir(parents=True)
        Image.new('RGB', (30, 40), (5 * c, 0, 0)).save(tmp_path / f'gtsrb/train/{c}/one.png')
    found = published_set('gtsrb', tmp_path)
    assert found.labels.tolist() == (found.images[:, 0, 0, 0] // 5).tolist() and found.classes[10] == '10'
    small = published_set('gtsrb', tmp_path, size=16, channels=1)
    assert small.images.shape == (43, 1, 16, 16) and small[[4]].images.shape == (1, 1, 16, 16)
    for bad in (dict(size=0), dict(channels=2)):
        with pytest.raises(ValueError, match='size must be an integer >= 1|allowed is'):
            published_set('gtsrb', tmp_path, **bad)


def test_a_folder_of_pictures_of_several_sizes(tmp_path):
    for i, (kind, size) in enumerate([('cat', (80, 70)), ('dog', (100, 64)), ('wild', (64, 300))]):
        (tmp_path / 'afhq/val' / kind).mkdir(parents=True)
        picture(*size).save(tmp_path / f'afhq/val/{kind}/{i}.png')
    found = published_set('afhq', tmp_path, 'test')
    assert (
        found.image_shape == (3, 64, 64)
        and found.tensor().shape == (3, 3, 64, 64)
        and found.classes == ['cat', 'dog', 'wild']
    )
    part = found[[2, 0]]
    first, again = (part.drawn(0, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[1] == 2 and part.labels.tolist() == [2, 0]
    assert not torch.equal(part.drawn(0, np.random.default_rng(6))[0], first[0])
    assert torch.equal(found[1:][0][0], found[1][0])


def test_oxford_flowers_are_trained_on_in_two_of_three_parts(tmp_path):
    io = pytest.importorskip('scipy.io')
    base = tmp_path / 'flowers-102'
    (base / 'jpg').mkdir(parents=True)
    for i in range(1, 205):
        picture(80, 70).save(base / f'jpg/image_{i:05d}.jpg')
    io.savemat(base / 'imagelabels.mat', {'labels': np.arange(204)[None] % 102 + 1})
    io.savemat(
        base / 'setid.mat',
        {
            'trnid': np.arange(1, 103)[None],
            'valid': np.arange(103, 153)[None],
            'tstid': np.arange(153, 205)[None],
        },
    )
    from torchvision.datasets import Flowers102

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flowers102, '_check_integrity', lambda self: True)
        train, test = (published_set('flowers', tmp_path, part) for part in ('train', 'test'))
    assert (len(train), len(test)) == (152, 52) and len(train.classes) == 102
    assert train.labels.tolist() == [i % 102 for i in range(152)] and train[151][0].shape == (3, 64, 64)


def test_mnist_m_parts_do_not_share_photographs(tmp_path):
    dark, light = np.zeros((40, 120, 3), np.uint8), np.full((40, 120, 3), 200, np.uint8)
    write_mnist_m(tmp_path, [dark, light], digits())
    train, test = (published_set('mnist_m', tmp_path, part) for part in ('train', 'test'))
    assert train.images[:, :, 0, 0].max() == 0 and test.images[:, :, 0, 0].min() == 200
    grey = digits()['train']
    assert torch.equal(
        train.images[:, 0].flatten(1).sum(1).sort().values, grey.images[:, 0].flatten(1).sum(1).sort().values
    )
    with pytest.raises(ValueError, match='larger than 28 x 28'):
        _mnist_m(grey.images[:2, 0].numpy(), [])


def test_training_on_random_cuts_resumes(tmp_path, monkeypatch, capsys):
    from difflow import load_denoiser
    from difflow.cli import root as cli

    monkeypatch.chdir(tmp_path)
    write_mnist_m(tmp_path / 'dataset', [np.full((40, 120, 3), 90, np.uint8)], digits())
    line = (
        'train --dataset mnist_m --arch plain --class-cond --model-channels 32 --channel-mult 1 '
        '--num-res-blocks 1 --attention-resolutions 1 --patch-size 4 --batch-size 8 --steps 6 --save-every 3'
    )

    def difflow(words):
        with pytest.raises(SystemExit) as stop:
            cli.main([*line.split(), *words.split()])
        assert not stop.value.code, capsys.readouterr()

    whole = train_until(None, difflow, 'whole', monkeypatch)
    train_until(4, difflow, 'half', monkeypatch)
    half = train_until(None, difflow, 'half', monkeypatch)
    assert whole.keys() == half.keys() and all(torch.equal(whole[k], half[k]) for k in whole)
    assert load_denoiser(tmp_path / 'whole/model.safetensors').num_classes == 10


def train_until(last, difflow, out, monkeypatch):
    "Train, and be interrupted at step `last`; return the weights"
    from difflow import load_denoiser
    from difflow.training.loop import _Run

    with monkeypatch.context() as patch:
        if last is not None:
            step = _Run.step

            def broken(self, k, *arguments):
                if k == last:
                    raise RuntimeError('power cut')
                step(self, k, *arguments)

            patch.setattr(_Run, 'step', broken)
            with pytest.raises(RuntimeError, match='power cut'):
                difflow(f'--out {out}')
            return None
        difflow(f'--out {out}')
    return load_denoiser(f'{out}/model.safetensors').state_dict()


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
