"""Sets of images: indices, shapes, and images that enter a study."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from difflow import ImageSet, load_images
from difflow.data import check_images, save_images, to_float, to_uint8


def test_differing_shapes_name_both_files(tmp_path, pixels):
    save_images(pixels[:1], tmp_path, ['a'])
    save_images(pixels[:1, :1], tmp_path, ['b'])
    s = load_images(tmp_path)
    assert s[0][0].shape == (3, 9, 12) and s[1][0].shape == (1, 9, 12)
    with pytest.raises(ValueError, match=r'a.png is \(3, 9, 12\).*b.png \(1, 9, 12\): pass size='):
        _ = s.images
    assert load_images(tmp_path, channels=3).images.shape == (2, 3, 9, 12)


def test_broken_finds_all_and_reads_on(flat):
    for i in (1, 4):
        (flat / f'{i:06d}.png').write_bytes(b'\x89PNG')
    reasons = load_images(flat).broken()
    assert list(reasons) == [1, 4] and '000004.png' in reasons[4]


def test_sets_without_labels_collate(flat):
    image, label = load_images(flat)[0]
    assert label is None and image.dtype == torch.float32
    images, labels = next(iter(DataLoader(load_images(flat), 4, collate_fn=ImageSet.collate)))
    assert images.shape == (4, 3, 9, 12) and labels is None


@pytest.mark.parametrize('index', [6, -7, [0, 6], torch.tensor([9])])
def test_indices_out_of_range(pixels, index):
    with pytest.raises(IndexError, match='allowed is -6..5'):
        ImageSet(pixels)[index]


@pytest.mark.parametrize('index', [1.5, [0.5], [[0, 1]], [True, False]])
def test_wrong_indices(pixels, index):
    with pytest.raises(ValueError, match='an index into 6 images'):
        ImageSet(pixels)[index]


def test_empty_selections(pixels):
    s = ImageSet(pixels, labels=range(6))
    for none in ([], slice(0, 0), torch.zeros(6, dtype=torch.bool)):
        assert len(s[none]) == 0 and len(s.tensor(none)) == 0


def test_several_labels_an_image(pixels):
    s = ImageSet(pixels, labels=[[i, 2 * i] for i in range(6)])
    assert s[3][1].tolist() == [3, 6] and s[[1, 2]].labels.tolist() == [[1, 2], [2, 4]]
    assert next(iter(DataLoader(s, 2)))[1].tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (np.zeros((1, 1, 4, 4), np.float32), 'not ndarray'),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 'to_float'),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), 'not torch.int64'),
        (torch.zeros(1, 4, 4), r'not \(1, 4, 4\)'),
        (torch.zeros(0, 1, 4, 4), 'none of them 0'),
        (torch.zeros(1, 3, 4, 4), r'of \(3, 4, 4\), the model takes \(1, 4, 4\)'),
        (torch.full((1, 1, 4, 4), float('nan')), '16 of 16 values are NaN'),
        (torch.full((1, 1, 4, 4), float('inf')), 'infinite'),
        (torch.full((1, 1, 4, 4), 255.0), r'lies in \[255, 255\], allowed is \[-1, 1\]'),
        (torch.full((1, 1, 4, 4), -1.01), r'lies in \[-1.01, -1.01\]'),
    ],
)
def test_check_images_names_what_is_wrong(x, message):
    with pytest.raises(ValueError, match='^start.*' + message):
        check_images(x, (1, 4, 4), name='start')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_images_returns_float32(dtype):
    x = torch.full((2, 1, 4, 4), 1.0005, dtype=dtype)
    assert check_images(x).dtype == torch.float32 and check_images(x, (1, 4, 4)).shape == (2, 1, 4, 4)


def test_import_is_light():
    heavy = {'torchvision', 'sklearn', 'matplotlib', 'IPython'}
    code = f'import sys, difflow.data.sets; print({heavy} & set(sys.modules))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == 'set()'


# ImageSet.of


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_are_kept_and_rounded_as_bytes_alone(dtype):
    x = (torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2.04 - 1.02).to(dtype)
    s = ImageSet.of(x)
    assert torch.equal(s.tensor(), x.float()) and torch.equal(s[3][0], x[3].float()) and s.decoded
    assert torch.equal(s.images, to_uint8(x)) and torch.equal(s[[1, 4]].images, to_uint8(x)[[1, 4]])
    assert torch.equal(s[[1, 4]].tensor([-1]), x[4:].float()) and torch.equal(s.pixels(2), to_uint8(x)[2])
    assert (s.image_shape, len(s[:0]), s.labels, s.names[4]) == ((3, 4, 6), 0, None, '000004')
    assert repr(s) == 'ImageSet(5 images, 3x4x6)' and s.broken() == {}
    again = pickle.loads(pickle.dumps(s))
    assert torch.equal(
        torch.cat([batch for batch, _ in DataLoader(again, 2, collate_fn=s.collate)]), s.tensor()
    )


def test_floats_are_saved_rounded(tmp_path):
    x = torch.linspace(-1, 1, 48).reshape(2, 1, 4, 6)
    save_images(ImageSet.of(x), tmp_path)
    assert torch.equal(load_images(tmp_path).images, to_uint8(x))


def test_a_tensor_that_needs_gradients(pixels):
    x = to_float(pixels).requires_grad_()
    assert not ImageSet.of(x).tensor().requires_grad


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('first', [False, True])
def test_arrays_of_every_layout(pixels, channels, first):
    images = pixels[:, :channels]
    array = images.numpy() if first else images.permute(0, 2, 3, 1).numpy()
    assert torch.equal(ImageSet.of(array).images, images)
    floats = to_float(images)
    assert torch.equal(ImageSet.of(floats.numpy()).tensor(), floats)
    if channels == 1:
        assert torch.equal(ImageSet.of(pixels[:, 0].numpy()).images, images)


def test_an_array_may_change_afterwards(pixels):
    array = pixels.permute(0, 2, 3, 1).numpy().copy()
    s = ImageSet.of(array)
    array[:] = 0
    assert torch.equal(s.images, pixels)


def test_pictures_of_mixed_modes():
    grey, palette = Image.new('L', (5, 4), 7), Image.new('RGB', (5, 4), (0, 51, 102)).convert('P')
    deep = Image.fromarray(np.full((4, 5), 257 * 9, np.uint16))
    assert ImageSet.of([grey, deep]).images.flatten(1).unique(dim=1).tolist() == [[7], [9]]
    mixed = ImageSet.of((grey, palette))
    assert mixed.images.shape == (2, 3, 4, 5) and mixed.images[1, :, 0, 0].tolist() == [0, 51, 102]


def test_names_and_paths(tmp_path, flat):
    assert len(ImageSet.of('digits')) == 1797
    assert ImageSet.of(flat).names == ImageSet.of(str(flat)).names == [f'{i:06d}.png' for i in range(6)]
    with pytest.raises(ValueError, match="unknown image set 'mnist6k'"):
        ImageSet.of('mnist6k')


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (torch.zeros(0, 1, 4, 4), 'at least one image, got 0'),
        (np.zeros((0, 4, 4), np.uint8), 'at least one image, got 0'),
        ([], 'at least one image, got 0'),
        (ImageSet(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)), 'at least one image, got 0'),
        (torch.zeros(1, 4, 4), r'got torch.float32 \(1, 4, 4\)'),
        (torch.zeros(2, 1, 0, 4), r'got torch.float32 \(2, 1, 0, 4\)'),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int64), 'got torch.int64'),
        (torch.full((1, 1, 4, 4), float('nan')), 'must be finite'),
        (torch.full((1, 1, 4, 4), float('-inf')), 'must be finite'),
        (torch.full((1, 1, 4, 4), 255.0), r'lie in \[255, 255\], allowed is \[-1, 1\]'),
        (np.zeros((2, 4, 4, 2), np.uint8), r'got uint8 \(2, 4, 4, 2\)'),
        (np.zeros((2, 4, 4), np.int32), 'got int32'),
        (np.zeros((2, 4, 4), np.float32), r'got torch.float32 \(2, 4, 4\)'),
        ([Image.new('L', (4, 4)), Image.new('L', (5, 4))], r'one size, got \[\(4, 4\), \(5, 4\)\]'),
        ([torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)], r'one shape and type, got .*1, 4, 4'),
        (Image.new('L', (4, 4)), 'got Image'),
        (b'digits', 'got bytes'),
        (None, 'got NoneType'),
        ({'a': 1}, 'got dict'),
    ],
)
def test_of_names_what_it_got(images, message):
    with pytest.raises(ValueError, match=message):
        ImageSet.of(images)
