"""Random crops against torchvision's."""

import numpy as np
import pytest
from PIL import Image

from difflow.data.transforms import _crop, _mirror, _random_part, _resize, _squeeze


def picture(width, height, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize('width, height', [(90, 61), (61, 90), (50, 50)])
def test_middle_crops_are_those_of_torchvision(width, height):
    transforms = pytest.importorskip('torchvision.transforms')
    image = picture(width, height)
    expected = transforms.Compose([transforms.Resize(74), transforms.CenterCrop(64)])(image)
    assert np.array_equal(np.array(_crop(64)(_resize(74)(image, None), None)), np.array(expected))
    assert np.array_equal(np.array(_squeeze(32)(image, None)), np.array(transforms.Resize((32, 32))(image)))


def test_random_crops_are_spread_as_torchvision_says():
    transforms, rng, image = (
        pytest.importorskip('torchvision.transforms'),
        np.random.default_rng(0),
        picture(28, 28),
    )
    theirs = [transforms.RandomResizedCrop.get_params(image, (0.8, 1.0), (0.8, 1.2)) for _ in range(3000)]
    boxes = []

    class Spy:
        width, height = image.size

        def crop(self, box):
            boxes.append(box)
            return self

        def resize(self, size, kind):
            return self

    for _ in range(3000):
        _random_part(28)(Spy(), rng)
    mine = np.array([(t, l, b - t, r - l) for l, t, r, b in boxes])
    fallback = 3000 - len(mine)
    assert fallback < 30
    for column in range(4):
        assert abs(mine[:, column].mean() - np.array(theirs)[:, column].mean()) < 0.15
    corners = {tuple(np.array(_crop(2)(picture(4, 3), rng)).flatten()) for _ in range(200)}
    assert len(corners) == 3 * 2
    turned = [np.array_equal(np.array(_mirror(image, rng)), np.array(image)) for _ in range(400)]
    assert 150 < sum(turned) < 250
