"""Whole data sets forward and backward: killed, shared, damaged, mislabelled, misspelt."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from imagenet_trees import by_folder
from PIL import Image

from difflow import EDMDenoiser, UNet, forward_backward, load_denoiser, load_images, save, sweep
from difflow.data import save_images, to_uint8
from difflow.sweeps import balanced_indices, forward_backward_folder, open_images
from difflow.sweeps.folders import _folder_run

DIFFLOW = Path(sys.executable).parent / 'difflow'
LEVELS = [0, 2, 5, 8]
STEPS = 8


def tiny(**options):
    "Return an untrained denoiser of 8x8 images whose output depends on its input"
    torch.manual_seed(0)
    net = UNet(
        8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), patch_size=2, **options
    )
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    for name, weight in net.named_parameters():
        if name.endswith('out_layers.3.weight'):
            torch.nn.init.normal_(weight, std=0.05)  # or noise level and label would not matter
    return EDMDenoiser(net)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a tiny model and ten images of digits"
    folder = tmp_path_factory.mktemp('home')
    save(tiny(), folder / 'tiny.safetensors')
    save_images(load_images('digits', split='test')[:10], folder / 'images')
    return folder


def images_of(home):
    return open_images(home / 'images', 8, 1)


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}


def run_all(home, out, levels=LEVELS, **options):
    return forward_backward_folder(tiny(), images_of(home), out, levels, STEPS, **{'batch_size': 4} | options)


@pytest.fixture(scope='module')
def plain(home, tmp_path_factory):
    "The content of a folder that was filled in one go"
    report = run_all(home, tmp_path_factory.mktemp('plain'))
    assert (report.made, report.complete, report.broken) == (40, True, {})
    return content(report.folder)


def pixels(data):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data))))[None]


def walk(denoiser, images, parts, **options):
    "Return what came back (levels, images, C, H, W) before it is rounded, walked in these parts"
    size = max(map(len, parts))
    arguments = (
        dict(
            sampler='ddpm',
            seed=3,
            use_labels=None,
            batch_size=size,
            format='png',
            convention='matched',
            independent=False,
            guidance=1.0,
            clip=None,
            options={},
        )
        | options
    )
    folder_run = _folder_run(denoiser, images, LEVELS, STEPS, **arguments)
    return torch.cat([folder_run.walk(images.tensor(part), part, LEVELS).images for part in parts], 1)


# What is made


def test_files_are_those_of_one_sweep(home, plain):
    images = images_of(home)
    expected = to_uint8(sweep(tiny(), images.tensor(), LEVELS, STEPS).images)
    names = {
        f'{Path(name).stem}_t{r * 125:04d}.png': (s, i)
        for s, r in enumerate(LEVELS)
        for i, name in enumerate(images.names)
    }
    assert set(plain) == {*names, 'manifest.jsonl', 'run.json'}
    for name, (s, i) in names.items():
        assert (pixels(plain[name]).int() - expected[s, i].int()).abs().max() <= 1, name
    for i, name in enumerate(images.names):
        assert (pixels(plain[f'{Path(name).stem}_t0000.png']) == images.images[i]).all()


def test_manifest_says_where_each_file_comes_from(home, plain):
    rows = [json.loads(line) for line in plain['manifest.jsonl'].splitlines()]
    images, sigmas = images_of(home), [0.0] + tiny().grid(STEPS).sigmas.tolist()
    timesteps = [None] + tiny().grid(STEPS).timesteps.tolist()  # 999 for the last of eight, not 7
    assert len({row['model'] for row in rows}) == 1 and [row['file'] for row in rows] == sorted(
        f for f in plain if f.endswith('png')
    )
    for row in rows:
        assert (
            row['file'] == f'{row["stem"]}_t{row["step_reverse"] * 125:04d}.png'
            and row['seed'] == 0
            and row['steps'] == STEPS
        )
        assert images.names[row['index']] == row['stem'] + '.png' and row['sigma'] == pytest.approx(
            sigmas[row['step_reverse']]
        )
        assert row['timestep'] == timesteps[row['step_reverse']]
    settings = json.loads(plain['run.json'])
    assert (
        settings['sampler'] == 'ddpm'
        and settings['convention'] == 'matched'
        and settings['model'] == rows[0]['model']
    )


@pytest.mark.parametrize(
    'convention, expected',
    [
        ('matched', [None, 96, 197, 297, 397, 497, 598, 698, 798, 899, 999]),
        ('repo', [None, 100, 201, 301, 401, 502, 602, 702, 802, 903, None]),
    ],
)
def test_timestep_is_the_index_before_respacing(home, convention, expected):
    options = dict(
        sampler='ddpm',
        seed=0,
        use_labels=None,
        batch_size=4,
        format='png',
        independent=False,
        guidance=1.0,
        clip=None,
        options={},
    )
    folder_run = _folder_run(tiny(), images_of(home), [25], 250, convention=convention, **options)
    found = [folder_run.timestep(r) for r in range(0, 251, 25)]
    assert found == expected  # at step_reverse 0 nothing is noised


def test_manifest_of_the_published_convention_tells_what_was_done_to_the_image(home, tmp_path):
    forward_backward_folder(tiny(), images_of(home), tmp_path, [0, 3, 10], 10, convention='repo', chosen=[2])
    rows = {
        row['step_reverse']: row
        for row in map(json.loads, open(tmp_path / 'manifest.jsonl', encoding='utf-8'))
    }
    grid = tiny().grid(10)
    assert (
        rows[3]['sigma'] == pytest.approx(grid.sigmas[3].item()) and rows[3]['timestep'] == grid.timesteps[3]
    )
    assert rows[10]['sigma'] is None and rows[10]['timestep'] is None and rows[10]['index'] == 2
    assert rows[0]['sigma'] == 0 and rows[0]['timestep'] is None


@pytest.mark.parametrize('sampler', ['ddpm', 'ddim'])
def test_batch_size_and_order_do_not_matter(sampler, home):
    images, options = images_of(home), dict(sampler=sampler, independent=sampler == 'ddpm')
    everything = sweep(tiny(), images.tensor(), LEVELS, STEPS, seeds=3, **options).images
    for parts in (
        [[i] for i in range(10)],
        [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]],
        [[9, 2, 4, 0, 7], [8, 1, 3, 6, 5]],
    ):
        order = [i for part in parts for i in part]
        assert (walk(tiny(), images, parts, **options) - everything[:, order]).abs().max() < 1e-5


def test_several_levels_in_one_run_are_what_separate_runs_give(home, plain, tmp_path):
    for levels in ([8], [0, 5], [2]):
        run_all(home, tmp_path, levels)
    assert content(tmp_path) == plain
    one = forward_backward(tiny(), images_of(home).tensor(), 5, STEPS)
    stem = images_of(home).names[7][:-4]
    assert (pixels(plain[f'{stem}_t0625.png']).int() - to_uint8(one[7]).int()).abs().max() <= 1


def test_an_image_is_the_same_whatever_is_chosen_with_it(home, plain, tmp_path):
    run_all(home, tmp_path, chosen=[9, 4], levels=[5])
    made = {name: data for name, data in content(tmp_path).items() if name.endswith('.png')}
    assert len(made) == 2
    for name, data in made.items():
        assert (pixels(data).int() - pixels(plain[name]).int()).abs().max() <= 1


def test_published_convention_respacing_and_format(home, tmp_path):
    report = forward_backward_folder(
        tiny(), images_of(home), tmp_path, [5], 'ddim10', 'ddim', format='jpeg', convention='repo', seed=7
    )
    scheduler = tiny().grid(1000).respace('ddim10')
    expected = forward_backward(
        tiny(), images_of(home).tensor(), 5, 10, 'ddim', seeds=7, convention='repo', scheduler=scheduler
    )
    files = sorted(tmp_path.glob('*_t0500.JPEG'))
    assert report.made == len(files) == 10
    for file, image in zip(files, to_uint8(expected)):
        jpeg = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(jpeg, 'JPEG')
        assert (
            file.read_bytes() == jpeg.getvalue()
            or np.abs(np.array(Image.open(file)).astype(int) - np.array(Image.open(jpeg))).max() < 16
        )


# Shared, killed, damaged


@pytest.fixture(scope='module')
def torchrun(home, run, tmp_path_factory):
    "A function that fills a folder with so many processes of the command, and returns its content"

    def torchrun(world):
        out = tmp_path_factory.mktemp(f'world{world}')
        command = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc-per-node',
            world,
            '--no-python',
            DIFFLOW,
        ]
        line = (
            f'forward-backward --data_dir {home}/images --model_path {home}/tiny.safetensors '
            f'--timestep_respacing {STEPS} --device cpu '
            f'--step_reverse 0 2 5 8 --batch_size 4 --out {out}/out'
        )
        done = run(*command, *shlex.split(line), env={'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        assert (
            done.stdout.count('10 images x 4 levels') == 1
            and '/40 [' in done.stderr
            and 'image/s' in done.stderr
        )
        return content(out / 'out')

    return torchrun


def test_torchrun_gives_the_same_bytes_with_one_two_and_three_processes(torchrun, plain):
    one = torchrun(1)
    assert one.keys() == plain.keys() and one['run.json'] == plain['run.json']
    for name in plain:
        if name.endswith('.png'):
            assert (pixels(one[name]).int() - pixels(plain[name]).int()).abs().max() <= 1  # other threads
    for world in (2, 3):
        assert torchrun(world) == one


def test_ranks_give_the_same_bytes(home, plain, tmp_path):
    for world in (1, 2, 3):
        for rank in reversed(range(world)):
            run_all(home, tmp_path / str(world), rank=rank, world=world)
        assert content(tmp_path / str(world)) == plain


KILLS = """if True:
    import os, random, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from test_folders import *
    home, scratch, draw = Path(sys.argv[1]), Path(sys.argv[2]), random.Random()

    def launch(folder, world):
        children = []
        for rank in range(world):
            children.append(os.fork())
            if children[-1] == 0:
                try: os._exit(not run_all(home, folder, rank=rank, world=world))
                finally: os._exit(1)
        return children

    def wait(children): return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    def works(child): return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def pictures(folder): return len(list(folder.glob('*.png')))

    def moment(folder, children):
        "Wait a random time after a random picture: fast and slow machines stop before, among and after files"
        wanted = draw.randint(0, len(whole) - 2)
        while any(map(works, children)) and pictures(folder) < wanted: time.sleep(0.001)
        time.sleep(draw.uniform(0, seconds / (len(whole) if wanted else 1)))

    start = time.perf_counter()
    assert wait(launch(scratch / 'whole', 1)) == [0]
    seconds, whole = time.perf_counter() - start, content(scratch / 'whole')
    kills = folders = partly = 0
    while kills < 20 or partly < 5:
        folder, folders = scratch / str(folders), folders + 1
        for _ in range(8):
            children = launch(folder, draw.randint(1, 3))
            moment(folder, children)
            for child in children: os.kill(child, signal.SIGKILL)
            killed = -9 in wait(children)
            kills += killed
            there = content(folder) if folder.exists() else {}
            partly += killed and 0 < pictures(folder) < len(whole) - 2
            for name in there: assert name.startswith('.run') or there[name] == whole[name], name
            if not killed: break
        assert set(wait(launch(folder, draw.randint(1, 3)))) == {0}
        assert content(folder) == whole
    print(kills, partly, len(whole))"""


def test_killed_at_twenty_random_moments(home, python, tmp_path):
    done = python(KILLS, home, tmp_path, Path(__file__).parent, env={'OMP_NUM_THREADS': '1'}, timeout=1200)
    kills, partly, files = map(int, done.split())
    assert kills >= 20 and partly >= 5 and files == 42


def test_damaged_file_is_made_again(home, plain, tmp_path):
    for level in (0, 1):
        run_all(home, tmp_path)
        file = sorted(tmp_path.glob('*_t0625.png'))[6]
        file.write_bytes(file.read_bytes()[:40] if level else b'')
        before = {f: f.stat().st_ino for f in tmp_path.glob('*.png')}
        assert run_all(home, tmp_path).made == 1 and content(tmp_path) == plain
        assert [f for f in before if f.stat().st_ino != before[f]] == [file]


def test_images_replaced_under_their_names_are_refused(home, tmp_path):
    pictures = tmp_path / 'pictures'
    save_images(images_of(home), pictures)
    images = lambda: load_images(pictures)
    out = tmp_path / 'out'
    run = lambda: forward_backward_folder(tiny(), images(), out, [2], STEPS, seed=3, batch_size=4)
    run()
    files = sorted(out.glob('*.png'))
    files[0].unlink()
    save_images(images_of(home)[::-1], pictures, images().names)
    with pytest.raises(ValueError, match=r'is of another run: \S+ \w{16} -> \w{16}; give another --out'):
        run()
    assert not files[0].exists()
    save_images(images_of(home), pictures, images().names)
    assert run().made == 1


def test_corrupt_images_are_named_counted_and_left_out(home, plain, tmp_path, monkeypatch, capsys):
    from difflow.cli import root as cli

    bad = tmp_path / 'bad'
    bad.mkdir()
    names = images_of(home).names
    for name in names:
        (bad / name).write_bytes((home / 'images' / name).read_bytes())
    (bad / names[2]).write_bytes((bad / names[2]).read_bytes()[:-30])
    (bad / names[5]).write_text('no picture')
    line = (
        f'forward-backward --data-dir {bad} --model {home}/tiny.safetensors --timestep-respacing {STEPS} '
        '--step-reverse 5 --batch-size 4'
    )

    def difflow(words):
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(f'{line} {words}'))
        return stop.value.code or 0, *capsys.readouterr()

    code, out, error = difflow(f'--out {tmp_path}/out')
    assert code == 0 and '2 files skipped' in out and '8 made' in out
    assert re.findall(r'skipped .*/(\S+): unreadable', error) == [names[2], names[5]]
    assert [json.loads(row)['broken'] for row in open(tmp_path / 'out/broken.jsonl')] == [names[2], names[5]]
    made = content(tmp_path / 'out')
    for name in made:
        if name.endswith('.png'):
            assert (pixels(made[name]).int() - pixels(plain[name]).int()).abs().max() <= 1
    code, out, error = difflow(f'--out {tmp_path}/strict --strict')
    assert (
        code == 2
        and out.startswith('model ')
        and error.count('\n') == 1
        and names[2] in error
        and not list((tmp_path / 'strict').glob('*5.png'))
    )
    for i in (2, 5):
        (bad / names[i]).write_bytes((home / 'images' / names[i]).read_bytes())
    assert '2 made' in difflow(f'--out {tmp_path}/out')[1]
    run_all(home, tmp_path / 'good', [5])
    assert content(tmp_path / 'good').keys() == content(tmp_path / 'out').keys()


def test_other_settings_are_refused(home, plain, tmp_path):
    run_all(home, tmp_path)
    for options, words in (
        (dict(seed=1), 'seed 0 -> 1'),
        (dict(sampler='ddim'), 'sampler ddpm -> ddim'),
        (dict(format='jpeg'), 'format'),
        (dict(convention='repo'), 'convention matched -> repo'),
        (dict(independent=True), 'independent'),
    ):
        with pytest.raises(ValueError, match=words):
            run_all(home, tmp_path, **options)
    other = tiny()
    with torch.no_grad():
        other.net.out[2].bias += 0.1
    for denoiser, images, steps, words in (
        (other, images_of(home), STEPS, 'model'),
        (tiny(), images_of(home), 9, 'schedule'),
        (tiny(), images_of(home)[1:], STEPS, 'names'),
    ):
        with pytest.raises(ValueError, match=f'is of another run: {words} '):
            forward_backward_folder(denoiser, images, tmp_path, [5], steps)
    assert content(tmp_path) == plain


def test_bad_input_is_refused_before_any_work(home, tmp_path):
    out, conditional = tmp_path / 'out', tiny(num_classes=10)
    for options, words in (
        (dict(levels=[9]), '0..8, got 9'),
        (dict(levels=[]), 'at least one'),
        (dict(sampler='euclid'), 'euclid'),
        (dict(format='gif'), 'png, jpeg'),
        (dict(use_labels=True), 'no classes'),
        (dict(seed=-1), 'seeds'),
        (dict(batch_size=0), 'batch_size'),
        (dict(convention='both'), 'convention'),
        (dict(guidance=2.0), 'guidance'),
        (dict(rank=3, world=3), '0..2 of 3'),
        (dict(eta=0.5), 'eta'),
    ):
        with pytest.raises(ValueError, match=words):
            run_all(home, out, **options)
    with pytest.raises(ValueError, match='one label an image, 0..9'):
        forward_backward_folder(conditional, images_of(home), out, [5], STEPS)
    assert not out.exists()


def test_model_gets_the_true_class(tmp_path):
    by_folder(tmp_path / 'val')
    for file in (tmp_path / 'val').rglob('*.JPEG'):
        Image.open(file).convert('L').save(file)
    images, denoiser = open_images(tmp_path / 'val', 8, 1), tiny(num_classes=1000, null_class=True)
    expected = sweep(denoiser, images.tensor(), LEVELS, STEPS, seeds=3, labels=images.labels).images
    assert (
        walk(denoiser, images, [[0, 1, 2, 3], [14, 13, 12]]) - expected[:, [0, 1, 2, 3, 14, 13, 12]]
    ).abs().max() < 1e-5
    without = sweep(denoiser, images.tensor(), LEVELS, STEPS, seeds=3).images
    assert (walk(denoiser, images, [[0, 1]], use_labels=False) - without[:, :2]).abs().max() < 1e-5
    assert (expected - without).abs().max() > 1e-2
    with pytest.raises(ValueError, match='5 classes, the model 1000'):
        forward_backward_folder(denoiser, load_images(tmp_path / 'val', 8, 1), tmp_path / 'out', [5], STEPS)


# The command line


def test_published_spelling(home, tmp_path, capsys):
    from difflow.cli import root as cli

    def difflow(line):
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(f'forward-backward {line}'))
        return stop.value.code or 0, *capsys.readouterr()

    line = (
        f'--data_dir digits --split test --num_classes 2 --num_per_class 3 --step_reverse 2 5 '
        f'--timestep_respacing {STEPS} --model_path {home}/tiny.safetensors --batch_size 3 --use_ddim True '
        f'--class_cond False --seed 4 --out {tmp_path}/out --format png'
    )
    code, out, error = difflow(line)
    assert code == 0 and '6 images x 2 levels, 12 made' in out and error == ''
    images = load_images('digits', split='test')
    chosen = balanced_indices(images, 2, 3)
    forward_backward_folder(tiny(), images, tmp_path / 'library', [2, 5], STEPS, 'ddim', 4, chosen, 3)
    assert content(tmp_path / 'out') == content(tmp_path / 'library') and sorted(
        set(images.labels[chosen].tolist())
    ) == [0, 1]
    dashed = re.sub(r'--\w+', lambda name: name[0].replace('_', '-'), line).replace('2 5', '2,5')
    dashed = dashed.replace('--use-ddim True', '--use-ddim').replace('--class-cond False', '--no-class-cond')
    assert '0 made' in difflow(dashed)[1]
    for words, message in (
        ('--step_reverse 9', '0..8, got 9'),
        ('--step_reverse 2 x', 'not integers'),
        ('--num_classes 0', '--num-classes'),
        ('--seed 5', 'seed 4 -> 5'),
        ('--sampler heun', '--use_ddim'),
        ('--model nowhere', 'nowhere'),
    ):
        code, out, error = difflow(f'{line} {words}')
        assert code == 2 and out == '' and error.count('\n') == 1 and message in error, error
    assert difflow('--step_reverse 5')[0] == 2
    half = f'{line} --use_fp16 True'.replace(f'{tmp_path}/out', f'{tmp_path}/half')
    assert (
        '12 made' in difflow(half)[1]
        and '0 made' in difflow(half.replace('--use_fp16 True', '--dtype float16'))[1]
    )
    assert 'model' in difflow(line.replace(f'{tmp_path}/out', f'{tmp_path}/half'))[2]


def test_what_a_foreign_file_lacks_is_an_option(home, tmp_path, capsys):
    from difflow.cli import root as cli

    def difflow(line):
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(line))
        return stop.value.code or 0, *capsys.readouterr()

    torch.manual_seed(0)
    net = UNet(
        8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(8,), channel_mult=(1,), num_head_channels=16
    )
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    torch.nn.init.normal_(
        net.middle_block[1].proj_out.weight, std=0.5
    )  # or heads and their layout would not matter
    torch.save(net.state_dict(), tmp_path / 'theirs.pt')
    line = (
        f'forward-backward --data_dir {home}/images --model_path {tmp_path}/theirs.pt '
        '--timestep_respacing 5 --step_reverse 3 --batch_size 10'
    )
    options = (
        '--image_size 8 --num_head_channels 16 --use_new_attention_order False '
        '--noise_schedule cosine --diffusion_steps 500'
    )
    code, _, error = difflow(f'{line} --out {tmp_path}/out')
    assert code == 2 and 'give --image-size' in error and not (tmp_path / 'out').exists()
    assert difflow(f'{line} --out {tmp_path}/out {options}')[0] == 0
    given = dict(
        image_size=8,
        num_head_channels=16,
        use_new_attention_order=False,
        schedule='cosine',
        diffusion_steps=500,
    )
    denoiser = load_denoiser(tmp_path / 'theirs.pt', **given)
    forward_backward_folder(denoiser, images_of(home), tmp_path / 'library', [3], 5, batch_size=10)
    assert content(tmp_path / 'out') == content(tmp_path / 'library')
    pngs = lambda name: {
        file: data for file, data in content(tmp_path / name).items() if file.endswith('png')
    }
    for change in (
        ('False', 'True'),
        ('cosine', 'linear'),
        ('channels 16', 'channels 32'),
    ):  # none is passed over
        name = change[1].replace(' ', '')
        assert difflow(f'{line} --out {tmp_path}/{name} {options.replace(*change)}')[0] == 0
        assert pngs(name).keys() == pngs('out').keys() and pngs(name) != pngs('out')
    spelt = options.replace('--use_new_attention_order False', '--no-use-new-attention-order')
    missing = difflow(f'info {tmp_path}/theirs.pt')[1]
    code, out, _ = difflow(f'info {tmp_path}/theirs.pt {spelt}')
    assert (
        code == 0
        and 'missing' in missing
        and 'missing' not in out
        and re.search(r'num_head_channels +16', out)
        and 'cosine' in out
    )
    assert difflow(f'info {tmp_path}/theirs.pt --schedule bent')[0] == 2
