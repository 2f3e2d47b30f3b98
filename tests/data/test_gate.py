"""Hostile and unlucky files: each is refused by one line that names it, before it takes time or memory."""

import io
import json
import os
import resource
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from difflow import ImageSet, load_images
from difflow.data import images_digest
from difflow.data.canvas import open_image
from difflow.data.checks import read_json
from difflow.files import _budget, _Npz, _open_zip, _printable, _read_bytes, _regular_file, load_npz

MB = 1 << 20


def encoded(kind='PNG', size=(8, 8), mode='RGB', **options):
    stream = io.BytesIO()
    Image.new(mode, size, 200).save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, pixels=b'', extra=b''):
    "Return a PNG that states a size"

    def part(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    head = part(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + extra + part(b'IDAT', pixels) + part(b'IEND', b'')


def tiff(*tags, data=b''):
    rows = b''.join(struct.pack('<HHLL', *tag) for tag in tags)
    return b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags)) + rows + bytes(4) + data


def limited(call, seconds=15, more=2 << 30):
    "Run `call` in a child with 2 GB and 15 s of computing; return the name and the text of its error"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open('/proc/self/status') as status:
            size = 1024 * int(next(line for line in status if line.startswith('VmSize')).split()[1])
        resource.setrlimit(resource.RLIMIT_AS, (size + more,) * 2)
        spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds,) * 2)
        try:
            said = f'returned {call()!r}'[:80]
        except BaseException as error:
            said = f'{type(error).__name__}: {error}'
        os.write(writer, said.encode(errors='replace')[:4000])
        os._exit(0)
    os.close(writer)
    with open(reader, 'rb') as text:
        said = text.read().decode()
    os.waitpid(child, 0)
    return said


def here(call):
    "Run what neither waits nor fills memory in this process; return the name and the text of its error"
    try:
        return f'returned {call()!r}'[:80]
    except Exception as error:
        return f'{type(error).__name__}: {error}'


def refused(call, *words, run=limited):
    said = run(call)
    assert said.startswith('ValueError: ') and said.isprintable(), said
    assert all(word in said for word in words), said
    return said


# What is no regular file


@pytest.fixture
def strange(tmp_path):
    "A folder with a pipe, a circle of links, a link to a device and a folder, all called as pictures"
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'circle.png').symlink_to(tmp_path / 'circle.png')
    (tmp_path / 'device.png').symlink_to('/dev/zero')
    (tmp_path / 'folder.png').mkdir()
    return tmp_path


@pytest.mark.parametrize('name', ['pipe.png', 'circle.png', 'device.png', 'folder.png'])
@pytest.mark.parametrize('read', [_read_bytes, _regular_file, read_json, load_npz, _Npz, _open_zip])
def test_nothing_waits_for_a_pipe(strange, name, read):
    refused(lambda: read(strange / name), str(strange / name), run=limited if name[0] in 'pd' else here)


def test_pipes_among_images(strange):
    said = refused(lambda: load_images(strange).tensor(), 'circle.png')
    assert 'Too many levels' in said
    (strange / 'circle.png').unlink()
    (strange / 'device.png').unlink()
    refused(lambda: load_images(strange).tensor(), 'pipe.png', 'no regular file, but a pipe')
    refused(lambda: load_images(strange / 'pipe.png').tensor(), 'pipe.png')
    refused(lambda: images_digest(load_images(strange)), 'pipe.png')
    (strange / 'a.png').write_bytes(encoded())
    assert list(load_images(strange).broken()) == [1]


@pytest.mark.parametrize('ending', ['npz', 'zip'])
def test_pipes_instead_of_archives(tmp_path, ending):
    os.mkfifo(tmp_path / f'a.{ending}')
    refused(lambda: load_images(tmp_path / f'a.{ending}'), f'a.{ending}', 'pipe')


def test_folders_that_lead_to_each_other(tmp_path):
    "Thirty folders with two links each to the next one: a thousand million paths"
    for k in range(31):
        (tmp_path / 'all' / f'{k}').mkdir(parents=True)
    for k in range(30):
        for name in 'ab':
            (tmp_path / 'all' / f'{k}' / name).symlink_to(tmp_path / 'all' / f'{k + 1}')
    (tmp_path / 'all' / '30' / 'a.png').write_bytes(encoded())
    refused(lambda: load_images(tmp_path / 'all'), 'links lead to it')


def test_a_file_beyond_the_budget_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / 'a.png', 'wb') as file:
        file.truncate(1 << 40)
    refused(lambda: load_images(tmp_path).tensor(), 'a.png', 'DIFFLOW_MAX_BYTES raises it')
    (tmp_path / 'a.png').write_bytes(encoded())
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', '20')
    with pytest.raises(ValueError, match='a.png takes [0-9]+ bytes, allowed are 20 bytes'):
        load_images(tmp_path).tensor()
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', '2000')
    assert len(load_images(tmp_path).tensor()) == 1


@pytest.mark.parametrize('text', ['0', '-1', '1e9', 'many', ' ', '٣', '9' * 30])
def test_budgets_are_integers(monkeypatch, text):
    monkeypatch.setenv('DIFFLOW_MAX_PIXELS', text)
    with pytest.raises(ValueError, match='DIFFLOW_MAX_PIXELS must be an integer >= 1'):
        _budget('DIFFLOW_MAX_PIXELS')


def test_files_that_grow_and_vanish(tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.png').write_bytes(encoded())
    images = load_images(tmp_path)
    (tmp_path / 'a.png').unlink()
    with pytest.raises(ValueError, match='a.png: unreadable image .*No such file'):
        images.tensor()
    os.mkfifo(tmp_path / 'a.png')
    refused(lambda: images.tensor(), 'a.png is no regular file, but a pipe')
    assert len(_read_bytes('/proc/self/status')) > 100  # states a size of 0


# Pictures


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    import torchvision.datasets  # noqa: F401 (once, and not in each child)

    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/it-ran\n')
    (tmp_path / 'bin' / 'gs').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}/bin:{os.environ["PATH"]}')
    data = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n'
    for name in ('a/x/a.png', 'a/x/a.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for call in (
        lambda: load_images(tmp_path / 'a').tensor(),
        lambda: load_images('ImageFolder', root=tmp_path / 'a').tensor(),
        lambda: ImageSet.of([{'image': {'bytes': data}}]),
        lambda: open_image(data, 'a.png'),
    ):
        refused(call, 'PNG, JPEG')
    assert not (tmp_path / 'it-ran').exists()
    assert Image.open.__module__ == 'PIL.Image'


def test_pixels_are_counted_before_they_are_decoded(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(png(13_000, 13_000))
    said = refused(lambda: load_images(tmp_path).tensor(), 'a.png', '13000 x 13000', '169,000,000')
    assert 'DIFFLOW_MAX_PIXELS raises it' in said
    for kind in ('GIF', 'WEBP', 'TIFF', 'BMP', 'JPEG', 'PNG', 'PPM'):
        data = encoded(kind, (40, 30))
        monkeypatch.setenv('DIFFLOW_MAX_PIXELS', '1199')
        with pytest.raises(ValueError, match='b: unreadable image .40 x 30 are 1,200 pixels'):
            open_image(data, 'b')
        monkeypatch.setenv('DIFFLOW_MAX_PIXELS', '1200')
        assert open_image(data, 'b').size == (40, 30)


def test_a_raised_budget_is_pillows_too(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    monkeypatch.setenv('DIFFLOW_MAX_PIXELS', '1000')
    assert open_image(encoded(size=(20, 20)), 'a').size == (20, 20)


HEADERS = dict(  # a header takes long to read, or asks for much, whatever the picture is
    chunks=lambda: png(8, 8, extra=(b'\0\0\0\0teSt' + bytes(4)) * 4_000_000),
    segments=lambda: b'\xff\xd8' + b'\xff\xef\0\2' * 10_000_000 + encoded('JPEG')[2:],
    comment=lambda: b'P6\n#' + b'a' * 100 * MB + b'\n8 8 255\n' + bytes(192),
    numbers=lambda: b'P2\n8000 8000 255\n' + b'0 ' * 63_999_999 + b'999',
    runs=lambda: b'BM' + bytes(28) + b'\1' + bytes(100 * MB),
    tiles=lambda: tiff(
        (256, 4, 1, 8),
        (257, 4, 1, 8),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (322, 4, 1, 1 << 15),
        (323, 4, 1, 1 << 15),
    ),
    strips=lambda: tiff((256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 20 * MB, 8), data=bytes(80 * MB)),
    tags=lambda: tiff(*((1000 + k, 1, MB, 8) for k in range(1000)), data=bytes(MB)),
)


@pytest.mark.parametrize('kind', HEADERS)
def test_headers_that_take_for_ever(kind):
    refused(lambda: open_image(HEADERS[kind](), 'a.png'), 'a.png: unreadable image')


def test_jpegs_of_many_scans():
    data = encoded('JPEG', (8000, 8000), 'L', progressive=True, quality=5)
    assert open_image(data, 'a.jpg').size == (8000, 8000)
    scan = data[data.rindex(b'\xff\xda') : -2]
    refused(lambda: open_image(data[:-2] + scan * 1000 + data[-2:], 'a.jpg'), 'scans of 64,000,000 pixels')


def test_texts_and_profiles_that_inflate():
    def part(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    bomb = zlib.compress(bytes(100 * MB), 9)
    for kind, head in ((b'zTXt', b'a\0\0'), (b'iCCP', b'a\0\0'), (b'iTXt', b'a\0\1\0\0\0')):
        limit = limited(
            lambda k=kind, h=head: open_image(png(1, 1, zlib.compress(bytes(4)), part(k, h + bomb)), 'a')
        )
        assert 'returned' in limit or limit.startswith('ValueError: a: unreadable'), limit


def test_animations_are_their_first_picture():
    frames = [Image.new('P', (8, 8), k) for k in range(50)]
    for kind in ('GIF', 'WEBP', 'TIFF', 'PNG'):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        assert open_image(stream.getvalue(), 'a').tell() == 0


@pytest.mark.parametrize('turn', range(1, 9))
def test_photos_are_turned_as_pillow_turns_them(tmp_path, turn):
    from PIL.ImageOps import exif_transpose

    exif = Image.Exif()
    exif[0x0112] = turn
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    for kind in ('png', 'webp', 'jpg'):
        picture.save(tmp_path / f'a.{kind}', exif=exif)
        wanted = np.asarray(exif_transpose(Image.open(tmp_path / f'a.{kind}')).convert('RGB'))
        assert np.array_equal(load_images(tmp_path / f'a.{kind}').images[0].permute(1, 2, 0).numpy(), wanted)


def test_one_line_and_no_warning(tmp_path):
    "Pillow warns of large pictures before it refuses them"
    import warnings

    with warnings.catch_warnings(record=True) as seen, pytest.raises(ValueError, match='100,000,000 pixels'):
        warnings.simplefilter('always')
        open_image(png(10_000, 10_000), 'a.png')
    assert not seen


# Weights of ours and their headers


def test_weights_and_settings_are_regular_files(strange):
    from difflow.features.classifiers import _read_classifier
    from difflow.features.sscd_published import _is_torchscript
    from difflow.representations.coded_denoisers import load_coded
    from difflow.runs.tables import run_of
    from difflow.training.state import _read_state

    for read in (_read_classifier, _is_torchscript, load_coded, run_of, _read_state):
        refused(lambda r=read: r(strange / 'pipe.png'), 'pipe.png')


@pytest.mark.parametrize('name', ['difflow_coded', 'step'])
def test_headers_of_weights_that_nest(tmp_path, name):
    import torch
    from safetensors.torch import save_file

    from difflow.representations.coded_denoisers import load_coded
    from difflow.training.state import _read_state

    save_file({'a': torch.zeros(1)}, tmp_path / 'a', {name: '[' * 100_000 + ']' * 100_000})
    refused(
        lambda: (load_coded if name != 'step' else _read_state)(tmp_path / 'a'), f'{tmp_path}/a', 'nested'
    )


# Zips


def zipped(path, **members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace('_', '.'), data)
    return path


def inflating(path, name, megabytes):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open(name, 'w', force_zip64=True) as member:
            for _ in range(megabytes):
                member.write(bytes(MB))
    return path


def test_members_that_inflate_are_measured_first(tmp_path, monkeypatch):
    path = inflating(tmp_path / 'd.zip', 'a.png', 300)
    refused(lambda: load_images(path).tensor(), 'd.zip/a.png takes 314.6 MB', 'DIFFLOW_MAX_BYTES')
    refused(lambda: images_digest(load_images(path)), 'd.zip/a.png takes')
    with zipfile.ZipFile(path, 'a') as archive:
        with archive.open('dataset.json', 'w') as member:
            for _ in range(20):
                member.write(b' ' * MB)
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', f'{10 * MB}')
    refused(lambda: load_images(path), 'd.zip/dataset.json takes 21.0 MB')


def test_a_directory_that_lies_about_sizes(tmp_path):
    "Stated are 10 bytes: no more are inflated, and the checksum tells"
    path = inflating(tmp_path / 'd.zip', 'a.png', 60)
    data = path.read_bytes()
    at = data.rindex(b'PK\1\2')
    extra = struct.unpack_from('<H', data, at + 30)[0]
    lie = data[: at + 20] + struct.pack('<LL', len(data) - 200, 10) + data[at + 28 :]
    path.write_bytes(lie)
    assert extra in (0, 20, 28)
    refused(lambda: load_images(path).tensor(), 'd.zip/a.png: unreadable image')


def test_methods_that_need_much_memory_and_secrets(tmp_path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / 'd.zip', 'w', method) as archive:
            archive.writestr('a.png', encoded())
        refused(lambda: load_images(tmp_path / 'd.zip').tensor(), 'a.png', f'compression method {method}')
    zipped(tmp_path / 'd.zip', a_png=encoded(), dataset_json='{}')
    data = bytearray((tmp_path / 'd.zip').read_bytes())
    for sign, place in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
        at = -1
        while (at := data.find(sign, at + 1)) >= 0:
            data[at + place] |= 1
    (tmp_path / 'd.zip').write_bytes(data)
    refused(lambda: load_images(tmp_path / 'd.zip'), 'dataset.json', 'encrypted')


@pytest.mark.parametrize(
    'name', ['../a.png', '/etc/a.png', 'x/../../a.png', 'd/' * 2000 + 'a.png', 'a' * 60_000 + '.png']
)
def test_members_that_lead_out(tmp_path, name):
    with zipfile.ZipFile(tmp_path / 'd.zip', 'w') as archive:
        archive.writestr(name, encoded())
    assert len(refused(lambda: load_images(tmp_path / 'd.zip'), 'd.zip: unreadable zip')) < 600


def test_members_are_counted(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / 'd.zip', 'w') as archive:
        for k in range(20):
            archive.writestr(f'{k}.png', encoded())
    monkeypatch.setenv('DIFFLOW_MAX_MEMBERS', '19')
    with pytest.raises(ValueError, match='d.zip: unreadable zip .it has more than 19 members'):
        load_images(tmp_path / 'd.zip')
    monkeypatch.setenv('DIFFLOW_MAX_MEMBERS', '20')
    assert len(load_images(tmp_path / 'd.zip')) == 20


def test_members_that_share_their_bytes(tmp_path):
    "A thousand names of one member of 60 kB: together they are larger than the whole"
    path = inflating(tmp_path / 'd.zip', '0000.png', 60)
    data = path.read_bytes()
    end, at = data.rindex(b'PK\5\6'), data.rindex(b'PK\1\2')
    row = data[at:end]
    rows = b''.join(row.replace(b'0000', b'%04d' % k) for k in range(1000))
    tail = b'PK\5\6' + struct.pack('<HHHHLLH', 0, 0, 1000, 1000, len(rows), at, 0)
    path.write_bytes(data[:at] + rows + tail)
    refused(lambda: load_images(path), 'd.zip: unreadable zip (its members overlap)')


def test_a_directory_of_a_gigabyte(tmp_path):
    with open(tmp_path / 'd.zip', 'wb') as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(b'PK\5\6' + struct.pack('<HHHHLLH', 0, 0, 9, 9, 1 << 30, 0, 0))
    refused(lambda: load_images(tmp_path / 'd.zip'), 'd.zip', 'd.zip: its directory takes 1,073.7 MB')


# Arrays


def npy(shape, kind='|u1', data=b''):
    "Return an npy whose header states a shape"
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b' ' * (-(len(text) + 11) % 64) + b'\n'
    return b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + data


@pytest.mark.parametrize(
    'content',
    [
        npy((1 << 30, 8, 8)),
        npy((-1, 8, 8), data=bytes(64)),
        npy((10**30,)),
        npy((2, 8, 8), '|V1000000000'),
        npy((10**12, 8, 8), '|S0'),
        npy((2, 8, 8), [('a', '|u1')], bytes(128)),
        npy((2,), '|O', b'cos\nsystem\n(S"true"\ntR.'),
        npy((2, 8, 8), '|u1', bytes(100)),
        b'\x93NUMPY\2\0\xff\xff\xff\xff' + bytes(100),
        b'\x93NUMPY\1\0\x10\0' + b'(' * 16,
        b'not an array',
        b'',
    ],
    ids='huge negative endless items nothing fields objects short header brackets text empty'.split(),
)
def test_arrays_that_ask_for_more_than_they_hold(tmp_path, content):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('arr_0.npy', content)
    for read in (load_images, load_npz):
        run = limited if b'0000' in content else here
        refused(lambda r=read: r(tmp_path / 'a.npz'), 'a.npz: unreadable npz', run=run)


def test_arrays_that_inflate(tmp_path, monkeypatch):
    many = {f'a{k}': np.zeros((10, MB), np.uint8) for k in range(3)}
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', f'{25 * MB}')
    np.savez_compressed(tmp_path / 'a.npz', **many)
    refused(lambda: load_npz(tmp_path / 'a.npz'), 'a.npz', 'with all its arrays takes 31.5 MB')
    np.savez_compressed(tmp_path / 'b.npz', images=np.zeros((30, 1024, 1024), np.uint8))
    refused(lambda: load_images(tmp_path / 'b.npz'), 'b.npz', 'DIFFLOW_MAX_BYTES')
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', '40000000')
    assert set(load_npz(tmp_path / 'a.npz')) == set(many)


def test_headers_of_arrays_that_inflate(tmp_path, monkeypatch):
    "A header of a gigabyte in a megabyte: not read to be told that it is too long"
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('arr_0.npy', 'w') as member:
            member.write(b'\x93NUMPY\2\0' + struct.pack('<I', 1 << 30))
            for _ in range(40):
                member.write(b' ' * MB)
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', f'{30 * MB}')
    for read in (load_images, load_npz):
        refused(lambda r=read: r(tmp_path / 'a.npz'), 'a.npz/arr_0 takes 41.9 MB')


def test_large_arrays_that_are_there_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv('DIFFLOW_MAX_BYTES', '1000')
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16), np.uint8)
    np.savez(tmp_path / 'a.npz', images=images)
    assert np.array_equal(load_images(tmp_path / 'a.npz').images[:, 0], images)


# JSON


def test_json_that_nests(tmp_path):
    deep = '[' * 100_000 + ']' * 100_000
    path = zipped(tmp_path / 'd.zip', a_png=encoded(), dataset_json=deep)
    refused(lambda: load_images(path), 'd.zip/dataset.json: not JSON', 'nested more than 100 deep')
    refused(lambda: read_json(('{"a":' * 1000).encode()), 'nested')
    assert read_json((deep[:90] + deep[-90:]).encode())
    assert read_json(json.dumps(['[{' * 500, '"[\\"[' * 500] * 20).encode())[0] == '[{' * 500


@pytest.mark.parametrize(
    'text', [b'[' + b'[],' * 20_000_000 + b'1]', b'{' + b'"a":{},' * 10_000_000 + b'"b":1}']
)
def test_json_that_takes_fifty_times_its_size(text):
    refused(lambda: read_json(text, 'a.json'), 'a.json', 'DIFFLOW_MAX_BYTES')


@pytest.mark.parametrize('text', [b'', b'\xff\xfe', b'{', b'1' * 10_000, b'[1,]', b'"\n"'])
def test_what_is_no_json(text):
    refused(lambda: read_json(text, 'a\n.json'), 'a\\n.json: not JSON', run=here)


LABELS = [
    'Infinity',
    'NaN',
    '1e30',
    '1e400',
    '-1',
    '0.5',
    f'{2**63}',
    f'{2**64}',
    f'{10**40}',
    'null',
    '"1"',
    '[[1]]',
    '{}',
]


@pytest.mark.parametrize('label', LABELS)
def test_labels_are_integers_of_64_bits(tmp_path, label):
    path = zipped(tmp_path / 'd.zip', a_png=encoded(), dataset_json=f'{{"labels": [["a.png", {label}]]}}')
    refused(lambda: load_images(path).labels, 'd.zip/dataset.json', run=here)


def test_the_largest_label(tmp_path):
    for label, value in ((2**63 - 1, 2**63 - 1), ('3.0', 3)):
        path = zipped(tmp_path / 'd.zip', a_png=encoded(), dataset_json=f'{{"labels": [["a.png", {label}]]}}')
        assert load_images(path).labels.tolist() == [value]
    for wrong in (np.array([2**63], np.uint64), np.array([1e30]), np.array([np.inf])):
        with pytest.raises(ValueError, match='labels'):
            ImageSet(load_images(path).images, wrong)


# Names


def test_names_are_printed_escaped(tmp_path):
    name = 'a\x1b[31m\n\u202eb.png'
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / name).write_bytes(b'none')
    refused(lambda: load_images(tmp_path / 'd').tensor(), 'a\\x1b[31m\\n\\u202eb.png: unreadable image')
    os.rename(tmp_path / 'd' / name, tmp_path / 'd' / 'a.npz')
    with zipfile.ZipFile(tmp_path / 'd.zip', 'w') as archive:
        archive.writestr(name, b'none')
        archive.writestr('dataset.json', json.dumps({'labels': []}))
    refused(lambda: load_images(tmp_path / 'd.zip'), 'without label', '\\x1b')
    np.savez(tmp_path / 'a.npz', **{'x\x1b\n': np.ones(1)})
    refused(lambda: load_images(tmp_path / 'a.npz'), 'a.npz')
    zipped(tmp_path / 'e.zip', a_png=encoded(), dataset_json='{"a\\u001b": "\\u001b[31m"}')
    refused(lambda: load_images(tmp_path / 'e.zip'), "no key 'labels'")


@pytest.mark.parametrize('text', ['plain', 'Größe 猫', 'a b'])
def test_readable_names_stay(text):
    assert _printable(text) == text


def test_long_names_are_cut():
    assert len(_printable('a' * 10**6)) < 1000 and len(_printable('\n' * 10**6)) < 1000


# Sets of torchvision


def test_pickles_of_cifar_are_those_that_were_published(tmp_path):
    "torchvision compares their digests before it unpickles them"
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    for name in [f'data_batch_{k}' for k in range(1, 6)] + ['test_batch', 'batches.meta']:
        (folder / name).write_bytes(f'cos\nsystem\n(S"touch {tmp_path}/it-ran"\ntR.'.encode())
    refused(lambda: load_images('CIFAR10', root=tmp_path), 'CIFAR10', run=here)
    assert not (tmp_path / 'it-ran').exists()


def test_headers_of_mnist_that_lie(tmp_path):
    import torchvision.datasets  # noqa: F401 (once, and not in each child)

    raw = tmp_path / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    for part in ('train', 't10k'):
        (raw / f'{part}-images-idx3-ubyte').write_bytes(
            struct.pack('>iiii', 2051, 2**31 - 1, 2**20, 28) + bytes(784)
        )
        (raw / f'{part}-labels-idx1-ubyte').write_bytes(struct.pack('>ii', 2049, 2**31 - 1) + bytes(1))
    refused(lambda: load_images('MNIST', root=tmp_path), 'MNIST')
