"""`difflow dataset`, `generate` and `sscd`: EDM's layout, runs in parts and in ranks, scores of files."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from difflow import SSCD, EDMDenoiser, OptimalDenoiser, Scheduler, UNet, VPDenoiser, load_images, sample, save
from difflow.cli.edm_datasets import _size_of, _transformed
from difflow.cli.generation import _file_of, _seeds_in
from difflow.data import save_images


@pytest.fixture
def difflow(difflow_here):
    "Run a line in an empty folder and return what it printed"

    def difflow(line, code=0):
        ended, out, err = difflow_here(line)
        assert ended == code, err
        return out if code == 0 else err

    return difflow


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    "A folder with two untrained networks, one with classes, and a descriptor"
    folder = tmp_path_factory.mktemp('models')
    for name, options in dict(plain={}, classes=dict(num_classes=4)).items():
        torch.manual_seed(0)
        net = UNet(
            8,
            1,
            32,
            1,
            num_res_blocks=1,
            attention_resolutions=(),
            channel_mult=(1,),
            patch_size=2,
            **options,
        )
        for weight in net.parameters():  # some start at zero, and hide the class
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.05)
        save(EDMDenoiser(net), folder / f'{name}.safetensors')
    SSCD('small', dims=16).save(folder / 'descriptor.safetensors')
    return folder


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()
    }


def photographs(folder, sizes, mode='RGB'):
    "Save pictures whose pixels tell where they are from"
    folder.mkdir(parents=True)
    for i, (width, height) in enumerate(sizes):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        picture = Image.fromarray(
            np.stack([x * 255 // width, y * 255 // height, 0 * x + 40 * i], -1).astype(np.uint8)
        )
        picture.convert(mode).save(folder / f'{chr(122 - i)}.png')


# dataset


def test_zip_has_the_layout_of_edm(difflow, tmp_path):
    difflow('dataset --source digits --dest here/set.zip --max-images 1002')
    with zipfile.ZipFile('here/set.zip') as archive:
        names, labels = archive.namelist(), json.loads(archive.read('dataset.json'))['labels']
        assert all(
            entry.compress_type == zipfile.ZIP_STORED and entry.date_time[0] == 1980
            for entry in archive.infolist()
        )
        last = Image.open(io.BytesIO(archive.read('00001/img00001001.png')))
    assert names == [f'{i // 1000:05d}/img{i:08d}.png' for i in range(1002)] + ['dataset.json']
    source, found = load_images('digits'), load_images('here/set.zip')
    assert [label for _, label in labels] == source.labels[:1002].tolist() and [
        n for n, _ in labels
    ] == names[:-1]
    assert torch.equal(found.images, source.images[:1002]) and torch.equal(found.labels, source.labels[:1002])
    assert last.tobytes() == source.images[1001].numpy().tobytes()
    assert os.listdir('here') == ['set.zip']


def test_bytes_are_the_same_and_sets_are_nested(difflow, tmp_path):
    for name, count in (('a', 20), ('b', 20), ('c', 9)):
        difflow(f'dataset --source mnist5k --dest {name}.zip --max_images {count} --resolution 16x16')
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()
    assert torch.equal(load_images('a.zip').images[:9], load_images('c.zip').images) and load_images(
        'a.zip'
    ).image_shape == (1, 16, 16)


def test_folder_and_no_labels(difflow, tmp_path):
    photographs(tmp_path / 'in', [(8, 8)] * 3)
    assert '3 images' in difflow('dataset --source in --dest out')
    assert json.loads((tmp_path / 'out/dataset.json').read_text()) == {'labels': None}
    assert (
        torch.equal(load_images('out').images, load_images('in').images) and load_images('out').labels is None
    )


@pytest.mark.parametrize(
    'kind, sizes, resolution, count',
    [
        ('', [(30, 20), (9, 40)], '8x8', 2),
        ('center-crop', [(30, 20), (9, 40)], '8x8', 2),
        ('center-crop-wide', [(64, 40), (20, 20), (64, 10), (32, 16)], '32x16', 2),
    ],
)
def test_transforms(kind, sizes, resolution, count, difflow, tmp_path):
    photographs(tmp_path / 'in', sizes)
    printed = difflow(
        f'dataset --source in --dest out.zip --resolution {resolution}'
        + (f' --transform {kind}' if kind else '')
    )
    side = int(resolution.split('x')[0])
    found = load_images('out.zip').images
    assert found.shape == (count, 3, side, side) and f'{count} images' in printed
    assert (f', {len(sizes) - count} too small' in printed) == (count < len(sizes))


def test_crops_are_where_they_should_be():
    "Columns of a ramp: the middle square of a wide picture, and the bars of a wide crop"
    ramp = Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (20, 1)))
    assert np.array_equal(
        np.asarray(_transformed(ramp, (20, 20), 'center-crop')), np.tile(np.arange(20, 40), (20, 1))
    )
    wide = np.asarray(_transformed(Image.new('L', (60, 60), 200), (60, 20), 'center-crop-wide'))
    assert (wide[:20] == 0).all() and (wide[20:40] == 200).all() and (wide[40:] == 0).all()
    assert _transformed(Image.new('L', (59, 60)), (60, 20), 'center-crop-wide') is None
    assert _transformed(ramp, None) is ramp


def test_bad_data_sets(difflow, tmp_path):
    photographs(tmp_path / 'mixed', [(8, 8), (9, 9)])
    photographs(tmp_path / 'oblong', [(8, 9)])
    photographs(tmp_path / 'small', [(8, 8)])
    photographs(tmp_path / 'modes', [(8, 8)])
    Image.new('L', (8, 8)).save(tmp_path / 'modes/zz.png')
    for line, words in (
        ('mixed --dest a.zip', 'squares of one size'),
        ('oblong --dest a.zip', 'squares'),
        ('modes --dest a.zip', 'mode'),
        ('small --dest a.zip --transform center-crop-wide --resolution 16x8', 'no image of 1 is as large'),
        ('small --dest mixed', 'an empty folder'),
        ('small --dest a.zip --resolution 8', 'WIDTHxHEIGHT'),
        ('small --dest a.zip --resolution 8x4', 'a square'),
        ('small --dest a.zip --transform center-crop', 'needs --resolution'),
        ('small --dest a.zip --transform crop', 'center-crop, center-crop-wide'),
        ('nowhere --dest a.zip', 'nowhere'),
    ):
        error = difflow(f'dataset --source {line}', 2)
        assert words in error and error.count('\n') == 1, error
    assert not any('a.zip' in name for name in os.listdir())


def test_sizes():
    assert (_size_of('32x16', 'center-crop-wide'), _size_of('32x32', None), _size_of(None, None)) == (
        (32, 16),
        (32, 32),
        None,
    )


# generate


def test_seeds_and_names():
    assert _seeds_in('0-3,7, 5') == [0, 1, 2, 3, 7, 5] and _seeds_in('12') == [12]
    assert (_file_of(123, False), _file_of(1123, True)) == ('000123.png', '001000/001123.png')
    for text in ('', '3-1', '-1', '1,,2', 'a', '0-3,2'):
        with pytest.raises(ValueError, match='--seeds'):
            _seeds_in(text)


def test_images_are_those_of_the_library(difflow, models, tmp_path):
    "The same network, sampler, levels and noise through `sample`, one image at a time"
    from difflow import load_denoiser

    difflow(
        f'generate --network {models}/plain.safetensors --outdir out --seeds 3,10-11 --steps 5 '
        '--sigma-max 20 --batch 2'
    )
    denoiser, levels = load_denoiser(models / 'plain.safetensors'), Scheduler.karras(5, 0.002, 20.0)
    found = load_images('out')
    assert found.names == ['000003.png', '000010.png', '000011.png']
    for i, seed in enumerate((3, 10, 11)):
        expected = sample(
            denoiser, (1, 1, 8, 8), 'heun', seeds=[seed], scheduler=levels, noise='edm', progress=False
        )
        assert (found.tensor([i]) - expected.clamp(-1, 1)).abs().max() < 1.01 / 127.5
    record = json.loads((tmp_path / 'out/run.json').read_text())
    assert record['sigmas'] == levels.sigmas.tolist() and record['solver'] == 'heun'


def test_stopped_runs_and_ranks_end_with_the_same_bytes(difflow, models, tmp_path, monkeypatch):
    line = (
        f'generate --network {models}/plain.safetensors --seeds 0-10 --steps 3 --batch 3 '
        '--subdirs --S_churn 10'
    )
    difflow(f'{line} --outdir whole')
    expected = content(tmp_path / 'whole')
    assert '000000/000010.png' in expected
    for rank in (2, 0, 1):  # in any order
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', '3')
        difflow(f'{line} --outdir parts')
    monkeypatch.delenv('RANK'), monkeypatch.delenv('WORLD_SIZE')
    assert content(tmp_path / 'parts') == expected
    for name in ('000000/000001.png', '000000/000009.png'):
        (tmp_path / 'whole' / name).unlink()
    (tmp_path / 'whole/000000/000004.png').write_bytes(b'cut short')
    assert '3 made here' in difflow(f'{line} --outdir whole')
    assert content(tmp_path / 'whole') == expected


def test_more_seeds_can_be_added(difflow, models):
    line = f'generate --network {models}/plain.safetensors --outdir out --steps 2'
    difflow(f'{line} --seeds 0-2')
    assert '5 images, 2 made here' in difflow(f'{line} --seeds 0-4')
    assert 'is of another run: sigmas' in difflow(f'{line} --seeds 0-4 --rho 5', 2)


def test_classes_are_drawn_or_given(difflow, models):
    line = f'generate --network {models}/classes.safetensors --steps 2 --seeds 0-5'
    for name, more in (('drawn', ''), ('third', '--class 2'), ('turns', '--noise counter')):
        difflow(f'{line} --outdir {name} {more}')
    drawn, third, turns = (load_images(name).images for name in ('drawn', 'third', 'turns'))
    assert not torch.equal(drawn, third) and not torch.equal(drawn, turns)
    assert '0..3' in difflow(f'{line} --outdir bad --class 4', 2)


@pytest.mark.parametrize('solver', ['heun', 'euler'])
def test_optimal_denoiser_goes_through_the_same_solver(solver, difflow, tmp_path):
    difflow('dataset --source digits --dest set.zip --max-images 40')
    difflow(
        f'generate --optimal_denoiser --dataset set.zip --outdir out --seeds 0-7 --steps 8 --solver {solver}'
    )
    images = load_images('set.zip')
    expected = sample(
        OptimalDenoiser(images),
        (8, 1, 8, 8),
        solver,
        seeds=list(range(8)),
        noise='edm',
        scheduler=Scheduler.karras(8),
        progress=False,
    )
    found = load_images('out').tensor()
    assert (found - expected.clamp(-1, 1)).abs().max() < 1.01 / 127.5
    nearest = (found.flatten(1)[:, None] - images.tensor().flatten(1)).abs().amax(2).amin(1)
    assert (nearest < 1.01 / 127.5).sum() >= 7  # one may end on a border
    difflow('generate --optimal-denoiser --dataset set.zip --outdir sevens --seeds 0-3 --steps 8 --class 7')
    sevens = images.tensor()[images.labels == 7].flatten(1)
    assert (
        (load_images('sevens').tensor().flatten(1)[:, None] - sevens).abs().amax(2).amin(1) < 1.01 / 127.5
    ).all()


def test_the_network_beside_the_optimal_denoiser_gives_its_range(difflow, models, tmp_path):
    "Euler as published; the levels are inside the network's own, here VP's, and its size is checked"
    torch.manual_seed(0)
    net = UNet(8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,))
    save(VPDenoiser(net), 'vp.safetensors')
    line = 'generate --optimal_denoiser --seeds 0 --steps 4 --sigma_min 0.0001 --sigma_max 1000'
    difflow(f'{line} --dataset digits --network vp.safetensors --outdir out')
    record = json.loads((tmp_path / 'out/run.json').read_text())
    low, high = min(record['sigmas']), max(record['sigmas'])
    assert record['solver'] == 'euler' and low > 0.0009 and 152 < high < 153
    difflow(f'{line} --dataset digits --outdir free')
    record = json.loads((tmp_path / 'free/run.json').read_text())
    assert max(record['sigmas']) == pytest.approx(1000) and record['solver'] == 'euler'
    error = difflow(f'{line} --dataset mnist5k --network vp.safetensors --outdir bad', 2)
    assert 'makes images of 1x8x8' in error and '--dataset mnist5k has 1x28x28' in error
    assert not (tmp_path / 'bad').exists()


def test_other_samplers_of_edm(difflow, models):
    for i, more in enumerate(
        (
            '--disc vp --schedule vp --scaling vp --solver euler',
            '--disc iddpm',
            '--solver dpmpp_2m',
            '--steps 1',
        )
    ):
        difflow(f'generate --network {models}/plain.safetensors --outdir out{i} --seeds 0 --steps 4 {more}')
        assert load_images(f'out{i}').image_shape == (1, 8, 8)


def test_euler_takes_churn(difflow, models):
    "As EDM's ablation sampler does, of which it is the default but for the solver"
    for i, more in enumerate(('', '--disc edm', '--disc edm --S_churn 0')):
        difflow(
            f'generate --network {models}/plain.safetensors --outdir out{i} --seeds 0-2 --steps 6 '
            f'--solver euler --S_churn 5 {more}'
        )
    found, named, calm = (load_images(f'out{i}').images for i in range(3))
    assert torch.equal(found, named) and not torch.equal(found, calm)


def test_bad_runs(difflow, models):
    network = f'--network {models}/plain.safetensors --outdir out'
    for line, words in (
        ('--outdir out', '--network is missing'),
        ('--optimal_denoiser --outdir out', 'needs --dataset'),
        (f'{network} --dataset digits', 'goes with --optimal_denoiser'),
        (f'{network} --seeds 5-1', '--seeds'),
        (f'{network} --solver leap', 'dpmpp_2m'),
        (f'{network} --disc x', 'vp, ve, iddpm, edm'),
        (f'{network} --schedule x', 'x'),
        (f'{network} --noise white', 'counter, edm, cuda'),
        (f'{network} --steps 0', '--steps'),
        (f'{network} --class 1', '--class 1'),
        (f'{network} --solver dpmpp_2m --S_churn 1', 'S_churn'),
        (f'{network} --sigma_min 5 --sigma_max 1', 'sigma'),
        (f'{network} --rho 0', 'rho'),
        ('--optimal_denoiser --dataset nowhere --outdir out', 'nowhere'),
        ('--network nowhere --outdir out', 'nowhere'),
    ):
        error = difflow(f'generate {line}', 2)
        assert words in error and error.count('\n') == 1, error
    assert os.listdir() == []


# sscd


def test_features_and_scores_from_folders(difflow, models, tmp_path):
    images = load_images('mnist5k').images[:30]
    save_images(images[:10], tmp_path / 'a', [f'{i:06d}' for i in range(10)])
    save_images(torch.cat([images[:4], images[20:26]]), tmp_path / 'b', [f'{i:06d}' for i in range(10)])
    save_images(images[:20], tmp_path / 'train', [f'digit-{i}' for i in range(20)])
    for name in ('a', 'b', 'train'):
        difflow(
            f'sscd feature --images {name} --features {name}.npz '
            f'--model {models}/descriptor.safetensors --batch 4'
        )
    with np.load('a.npz') as file:
        f, seeds = file['features'], file['seeds']
    assert (
        f.shape == (10, 16)
        and f.dtype == np.float32
        and np.allclose(np.linalg.norm(f, axis=1), 1, atol=1e-5)
        and seeds.tolist() == list(range(10))
    )
    assert 'RP score = 0.4000' in difflow('sscd rpscore --source a.npz --target b.npz --t 0.99999')
    printed = difflow('sscd mscore --source b.npz --target train.npz --t 0.99999')
    assert 'M score = 0.4000' in printed.split('\n')[1] and 'GL score = 0.6000' in printed.split('\n')[2]
    assert printed.split('\n')[2].endswith('what the published script prints as "M score"')
    line = 'sscd mscore --source b.npz --target train.npz --t 0.99999 --as-published'
    assert difflow(line).split('\n')[1:] == ['M score =  0.6', '']
    line = 'sscd rpscore --source a.npz --target b.npz --t 0.99999 --as_published'
    assert difflow(line).split('\n')[1:] == ['RP score =  0.4', '']


def test_features_of_the_published_script_are_read(difflow):
    "An npz of `features` alone"
    f = np.eye(4, dtype=np.float32)
    np.savez('a.npz', features=f)
    np.savez('b.npz', features=f[[0, 1, 3, 2]])
    assert 'RP score = 0.5000' in difflow('sscd rpscore --source a.npz --target b.npz --t 0.6')
    assert 'M score = 1.0000' in difflow('sscd mscore --source a.npz --target b.npz')


def test_ranks_share_the_features(difflow, models, tmp_path, monkeypatch):
    save_images(load_images('mnist5k').images[:11], tmp_path / 'a')
    line = f'sscd feature --images a --model {models}/descriptor.safetensors --batch 2'
    difflow(f'{line} --features whole.npz')
    for rank in (1, 0):
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', '2')
        difflow(f'{line} --features parts.npz')
    assert (tmp_path / 'whole.npz').read_bytes() == (tmp_path / 'parts.npz').read_bytes()


def test_bad_features(difflow, models, tmp_path):
    f = np.eye(4, dtype=np.float32)
    for name, arrays in dict(
        a=dict(features=f, seeds=np.arange(4), model='x'),
        three=dict(features=f[:3]),
        seeds=dict(features=f, seeds=np.arange(1, 5)),
        model=dict(features=f, model='y'),
        long=dict(features=2 * f),
        keys=dict(features=f, extra=1),
        none=dict(other=f),
    ).items():
        np.savez(f'{name}.npz', **arrays)
    (tmp_path / 'empty').mkdir()
    save_images(torch.zeros(1, 1, 28, 28), tmp_path / 'mixed', ['a'])
    save_images(torch.zeros(1, 1, 32, 32), tmp_path / 'mixed', ['b'])
    for line, words in (
        ('rpscore --source a.npz --target three.npz', '4 and 3 samples'),
        ('rpscore --source a.npz --target seeds.npz', 'seeds differ'),
        ('mscore --source a.npz --target model.npz', 'different descriptors'),
        ('mscore --source a.npz --target long.npz', 'not of length 1'),
        ('mscore --source a.npz --target keys.npz', 'extra'),
        ('mscore --source none.npz --target a.npz', "wanted 'features'"),
        ('rpscore --source a.npz --target nowhere.npz', 'nowhere.npz'),
        ('rpscore --source a.npz --target a.npz --t 2', '-1..1'),
        (f'feature --images empty --features f.npz --model {models}/descriptor.safetensors', 'no images'),
        (f'feature --images mixed --features f.npz --model {models}/descriptor.safetensors', 'size='),
        (f'feature --images mixed --features f.txt --model {models}/descriptor.safetensors', '.npz'),
    ):
        error = difflow(f'sscd {line}', 2)
        assert words in error and error.count('\n') == 1, error
    assert not (tmp_path / 'f.npz').exists()


# Help


@pytest.mark.parametrize(
    'command', ['dataset', 'generate', 'sscd', 'sscd feature', 'sscd rpscore', 'sscd mscore']
)
def test_help(command, difflow):
    text = difflow(f'{command} --help')
    assert 'Options:' in text and command.split()[0] in difflow('--help')
