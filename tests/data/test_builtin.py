"""The built-in sets: their origin, and pixels that follow their labels."""

import numpy as np
import torch

from difflow import load_images
from difflow.data.builtin import _PALETTE
from difflow.files import package_file


def test_mnist5k_states_its_origin_and_licence():
    folder = package_file('embedded')
    with np.load(folder / 'mnist5k.npz') as z:
        assert z['images'].dtype == z['labels'].dtype == np.uint8
        assert 'MNIST' in str(z['origin']) and 'CC BY-SA 3.0' in str(z['origin'])
    text = (folder / 'LICENSE-mnist5k.txt').read_text()
    assert 'Creative Commons' in text and 'Yann LeCun' in text


def test_digits_fill_the_range_by_rounding():
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images)
    s = load_images('digits')
    assert len(s) == 1797 and s.images.unique().numel() == 17
    assert (s.images[:, 0] - raw * 255 / 16).abs().max() <= 0.5


def test_colored_mnist_pixels_follow_labels():
    grey, s = load_images('mnist5k').images.float() / 255, load_images('colored_mnist', seed=5)
    palette = torch.tensor(list(_PALETTE.values())).float()
    _, back, fore = s.labels.T
    exact = grey * palette[fore][..., None, None] + (1 - grey) * palette[back][..., None, None]
    assert (s.images - exact).abs().max() <= 0.5 + 1e-4
    assert (back == fore).any()
    assert torch.equal(load_images('colored_mnist', seed=5).images, s.images)
