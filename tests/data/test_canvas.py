"""Pixels, sizes, modes, grids and PNG files: what does not teach."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflow import load_images, show_images
from difflow.data import image_grid, save_images, to_float, to_uint8, write_png
from difflow.data.canvas import _resize_crop, _to_mode


@pytest.mark.parametrize('shape', [(427, 640), (64, 64), (65, 127), (129, 128), (30, 300), (500, 37), (1, 1)])
@pytest.mark.parametrize('size', [1, 8, 64])
def test_resize_follows_the_published_steps(shape, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    width, height = picture.size
    expected = picture
    while min(width, height) >= 2 * size:  # the recipe in its own words, on an array crop
        width, height = width // 2, height // 2
        expected = expected.resize((width, height), resample=Image.BOX)
    scale = size / min(width, height)
    wanted = round(width * scale), round(height * scale)
    expected = np.array(expected.resize(wanted, resample=Image.BICUBIC))
    y, x = (expected.shape[0] - size) // 2, (expected.shape[1] - size) // 2
    assert np.array_equal(np.array(_resize_crop(picture, size)), expected[y : y + size, x : x + size])


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I;16', 'I'])
def test_every_mode_becomes_one_or_three_channels(mode):
    picture = Image.new('L' if mode.startswith('I') else 'RGB', (4, 3), 'white').convert(mode)
    assert _to_mode(picture, 1).mode == 'L' and _to_mode(picture, 3).mode == 'RGB'
    assert _to_mode(picture).mode == ('L' if mode in ('1', 'L', 'LA', 'I;16', 'I') else 'RGB')


def test_sixteen_bits_and_transparency_through_files(tmp_path):
    Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16)).save(tmp_path / 'deep.png')
    assert load_images(tmp_path / 'deep.png').images.flatten().tolist() == [0, 0, 1, 255]
    palette = Image.new('P', (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / 'palette.png', transparency=0)
    image = load_images(tmp_path / 'palette.png').images[0]
    assert image.permute(1, 2, 0).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_integers_without_a_range_are_refused():
    with pytest.raises(ValueError, match='allowed is 0..65535'):
        _to_mode(Image.fromarray(np.array([[70000]], np.int32)))


def test_float_images_survive_saving(tmp_path):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    save_images(to_float(levels), tmp_path)
    assert torch.equal(load_images(tmp_path).images, levels)
    assert torch.equal(to_uint8(load_images(tmp_path)[0][0]), levels[0])


def test_nothing_half_written(tmp_path, pixels, monkeypatch):
    save_images(pixels[:1], tmp_path, ['a'])
    before = (tmp_path / 'a.png').read_bytes()
    original = Image.Image.save

    def dies(self, path, **options):
        original(self, path, **options)
        Path(path).write_bytes(Path(path).read_bytes()[:20])
        raise OSError('disk full')

    monkeypatch.setattr(Image.Image, 'save', dies)
    with pytest.raises(OSError, match='disk full'):
        save_images(pixels[1:2], tmp_path, ['a'])
    assert (tmp_path / 'a.png').read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_the_name_appears_by_renaming_alone(tmp_path, pixels, monkeypatch):
    def dies(source, target):
        assert Path(target).name == 'a.png' and Image.open(source).size == (12, 9)
        raise OSError('killed')

    monkeypatch.setattr(os, 'replace', dies)
    with pytest.raises(OSError, match='killed'):
        save_images(pixels[:1], tmp_path, ['a'])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['../a', '/a', 'a/../../b', 'a\\b', ''])
def test_names_stay_in_the_folder(tmp_path, pixels, name):
    with pytest.raises(ValueError, match='not a file name within the folder'):
        save_images(pixels[:1], tmp_path / 'x', [name])
    assert not list(tmp_path.iterdir())


def test_names_that_collide_or_miscount(tmp_path, pixels):
    with pytest.raises(ValueError, match='1 names repeat, first a.png'):
        save_images(pixels[:2], tmp_path, ['a.jpg', 'a.png'])
    with pytest.raises(ValueError, match='1 names for 2 images'):
        save_images(pixels[:2], tmp_path, ['a'])
    assert not list(tmp_path.iterdir())
    assert [p.name for p in save_images(pixels[:2], tmp_path, ['v1.5', 'x.jpeg'])] == ['v1.5.png', 'x.png']


def test_lazy_sets_are_saved_one_by_one(flat, tmp_path):
    s = load_images(flat, size=5)
    save_images(s, tmp_path / 'small')
    assert not s.decoded and torch.equal(load_images(tmp_path / 'small').images, s.images)


def test_write_png_makes_folders(tmp_path, pixels):
    path = write_png(image_grid(pixels), tmp_path / 'a' / 'b' / 'grid.png')
    assert Image.open(path).format == 'PNG'


def test_grid_holds_every_image(pixels):
    grid = np.array(image_grid(pixels, columns=4, scale=3, gap=5))
    for i in range(6):
        y, x = 5 + i // 4 * (27 + 5), 5 + i % 4 * (36 + 5)
        assert np.array_equal(grid[y : y + 27 : 3, x : x + 36 : 3], pixels[i].permute(1, 2, 0).numpy())
        assert np.array_equal(
            grid[y + 2 : y + 27 : 3, x + 2 : x + 36 : 3], pixels[i].permute(1, 2, 0).numpy()
        )


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: image_grid(torch.zeros(2, 2, 4, 4)), 'C = 1 or 3'),
        (lambda: image_grid(torch.zeros(0, 1, 4, 4)), 'C = 1 or 3'),
        (lambda: image_grid(torch.zeros(1, 4, 4), columns=0), 'columns must be an integer >= 1, got 0'),
        (lambda: image_grid(torch.zeros(1, 4, 4), scale=0), 'scale must be an integer >= 1, got 0'),
        (lambda: image_grid(torch.zeros(1, 4, 4), titles=['a', 'b']), '2 titles for 1 images'),
        (
            lambda: image_grid(torch.full((1, 4, 4), float('nan'))),
            'images: 16 of 16 values are NaN or infinite',
        ),
        (
            lambda: image_grid(torch.full((1, 4, 4), float('inf'))),
            'images: 16 of 16 values are NaN or infinite',
        ),
        (lambda: image_grid(torch.zeros(2, 1, 4, 4), titles='ab'), "titles must be several texts, got 'ab'"),
    ],
)
def test_grid_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_show_images_displays_one_picture(monkeypatch, pixels):
    shown = []
    monkeypatch.setattr('IPython.display.display', lambda picture, **options: shown.append(picture))
    assert show_images(pixels, titles=list('abcdef'), columns=3, scale=2) is None
    assert len(shown) == 1 and isinstance(shown[0], Image.Image)
