"""Images prepared for a network: Pillow's and torchvision's bytes"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from difflow.data import Preprocess, resize_bilinear, to_float
from difflow.data.resizing import _pillow_weights, _torch_is_pillow


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


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 110),
    st.integers(1, 110),
    st.integers(1, 130),
    st.integers(1, 130),
    st.sampled_from([1, 3]),
    st.integers(0, 99),
)
def test_resize_is_pillows(height, width, new_height, new_width, channels, seed):
    images = noise(2, channels, height, width, seed=seed)
    assert torch.equal(
        resize_bilinear(images, (new_height, new_width)), pillow(images, (new_height, new_width))
    )


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
