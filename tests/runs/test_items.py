"""Items that are refused, and images as the bytes of a file."""

import io

import pytest
import torch
from PIL import Image

from difflow.data import to_float, to_uint8
from difflow.runs import Item, encode_image, fill

ITEMS = [Item(f'item {i}', (f'{i:02d}.txt',)) for i in range(3)]


@pytest.mark.parametrize(
    'items, size, words',
    [
        ([], 1, 'got none'),
        ([ITEMS[0], ITEMS[0]], 1, 'items repeat'),
        (ITEMS, 0, 'batch_size must be'),
        (ITEMS, True, 'batch_size'),
        ([Item('a', ('x',)), Item('b', ('x',))], 1, "files repeat, first 'x'"),
        ([Item('a', ('/x',))], 1, 'within the folder'),
        ([Item('a', ('b/../../x',))], 1, 'within the folder'),
        ([Item('a', ('.run/x',))], 1, 'within the folder'),
    ],
)
def test_bad_items_are_refused(items, size, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        fill(tmp_path / 'new', {}, items, None, size)
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('channels', [1, 3])
def test_encode(channels):
    image = torch.rand(channels, 9, 14) * 2 - 1
    png = Image.open(io.BytesIO(encode_image(image)))
    pixels = to_uint8(image).permute(1, 2, 0).squeeze(-1).numpy()
    assert (
        png.size == (14, 9)
        and bytes(png.tobytes()) == pixels.tobytes()
        and encode_image(image) == encode_image(to_uint8(image))
    )
    assert encode_image(to_float(to_uint8(image))) == encode_image(image)
    expected = io.BytesIO()
    Image.fromarray(pixels).save(expected, 'JPEG')
    assert encode_image(image, 'jpeg') == expected.getvalue()
