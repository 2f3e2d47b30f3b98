"""Files that cannot be read, and handles that processes do not share."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from image_files import edm_zip, encode
from PIL import Image
from torch.utils.data import DataLoader

from difflow import ImageSet, load_images
from difflow.data import to_float
from difflow.data.readers import _FileReader


def test_folders_are_lazy(tmp_path, flat, monkeypatch):
    opened = []
    original = _FileReader.__call__
    monkeypatch.setattr(_FileReader, '__call__', lambda self, i: opened.append(i) or original(self, i))
    s = load_images(flat, size=4)
    assert len(s[[1, 2, 3]]) == 3 and not opened
    s[4]
    assert opened == [4] and not s.decoded
    assert s[2:4].tensor([1]).shape == (1, 3, 4, 4) and opened == [4, 3]
    _ = s.images
    assert s.decoded and len(opened) == 8 and s.image_shape == (3, 4, 4)
    _ = s.images, s[0], s.tensor()
    assert len(opened) == 8


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'BMP', 'WEBP', 'GIF', 'TIFF'])
@pytest.mark.parametrize('keep', [0, 1, 30, 0.3, 0.6, 0.9])
def test_truncated_files_are_named(tmp_path, format, keep):
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = encode(image, format)
    path = tmp_path / f'cut.{format.lower()}'
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match='unreadable image') as e:
        load_images(path)
    assert str(path) in str(e.value)
    with pytest.raises(ValueError, match='unreadable image'):
        load_images(tmp_path)[0]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / 'x.png').write_text('<html>404</html>')
    with pytest.raises(ValueError, match='x.png: unreadable image .none of PNG, JPEG, WEBP, BMP, GIF'):
        load_images(tmp_path / 'x.png')


@pytest.mark.parametrize('orientation', range(10))
@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP'])
def test_photos_come_upright_or_as_stored(tmp_path, orientation, format):
    "The eight orientations of the EXIF standard, by where row 0 and column 0 of the stored pixels belong"
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8], stored[:4, 8:] = 255, 128
    upright = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }.get(orientation, stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / 'p', format, exif=exif, quality=100)
    (tmp_path / 'p').rename(tmp_path / f'p.{format.lower()}')
    for orient, wanted in ((True, upright), (False, stored)):
        for path in (tmp_path, tmp_path / f'p.{format.lower()}'):
            found = load_images(path, orient=orient).images[0].permute(1, 2, 0).numpy()
            assert found.shape == wanted.shape and abs(found.astype(int) - wanted).max() < 30
    assert load_images(tmp_path).image_shape == load_images(tmp_path, orient=True).image_shape


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_broken_exif_leaves_the_picture_as_it_is(tmp_path):
    Image.new('RGB', (16, 8)).save(tmp_path / 'p.jpg', exif=b'Exif\x00\x00MM\x00*\xff\xff\xff\xff')
    assert load_images(tmp_path).image_shape == (3, 8, 16)


def test_a_picture_without_8_bits_is_named(tmp_path):
    "Mode F has no known range: the file is named, in a folder, a zip and alone, and found by `broken`"
    Image.new('L', (8, 8)).save(tmp_path / 'a.png')
    Image.fromarray(np.random.rand(8, 8).astype(np.float32)).save(tmp_path / 'b.tif')
    Image.fromarray(np.full((8, 8), -1, np.int32)).save(tmp_path / 'c.tif')
    for kind in ('b', 'c'):
        with pytest.raises(ValueError, match=f"{kind}.tif: mode '[FI]', .*allowed is 0..65535"):
            load_images(tmp_path / f'{kind}.tif')
    s = load_images(tmp_path, channels=3)
    assert list(s.broken()) == [1, 2]
    with pytest.raises(ValueError, match='b.tif: mode'):
        s.tensor()


def test_a_file_that_vanished_is_named(flat):
    s = load_images(flat)
    (flat / '000002.png').unlink()
    with pytest.raises(ValueError, match='000002.png: unreadable image'):
        s[2]
    assert list(s.broken()) == [2]


def test_unreadable_files_in_a_worker_are_named(flat):
    (flat / '000003.png').write_bytes(b'')
    with pytest.raises(ValueError, match='000003.png: unreadable image'):
        list(DataLoader(load_images(flat), 2, num_workers=1, collate_fn=ImageSet.collate))


def test_damaged_zip_member_is_named(tmp_path, pixels):
    path = edm_zip(tmp_path / 'a.zip', pixels)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        start = z.infolist()[2].header_offset
    content[start + 200] ^= 255  # its CRC no longer agrees
    path.write_bytes(content)
    s = load_images(path)
    assert list(s.broken()) == [2]
    with pytest.raises(ValueError, match='a.zip/00000/img00000002.png: unreadable image'):
        _ = s.images


def test_zip_handles_are_not_shared_between_processes(tmp_path, pixels):
    pixels = pixels.repeat(10, 1, 1, 1)
    s = load_images(edm_zip(tmp_path / 'a.zip', pixels, None))
    s[0]  # the parent's handle is open before the fork
    assert s._held.read._handle[0] == os.getpid()
    for _ in range(2):
        got = torch.cat([x for x, _ in DataLoader(s, 3, num_workers=2, collate_fn=ImageSet.collate)])
        assert torch.equal(got, to_float(pixels))
    assert torch.equal(pickle.loads(pickle.dumps(s)).images, pixels)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_by_fork_and_spawn(tmp_path, pixels, method):
    s = load_images(edm_zip(tmp_path / 'a.zip', pixels, [[f'00000/img{i:08d}.png', i] for i in range(6)]))
    batches = list(DataLoader(s, 2, num_workers=1, multiprocessing_context=method))
    assert torch.equal(torch.cat([x for x, _ in batches]), to_float(pixels))
    assert torch.cat([y for _, y in batches]).tolist() == list(range(6))
