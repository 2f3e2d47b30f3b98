"""The command line as people get it: in processes of its own, with real files, and stopped half way."""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_commands import Commands
from PIL import Image

from difflow import (
    DDPMDenoiser,
    EDMDenoiser,
    Scheduler,
    UNet,
    VPDenoiser,
    load_denoiser,
    load_images,
    sample,
    save,
    sweep,
)
from difflow.checkpoints import describe
from difflow.data import save_images, to_float
from difflow.networks import edm_network
from difflow.runs import legacy_ddim

DIFFLOW = Path(sys.executable).parent / 'difflow'
TINY = (
    '--model-channels 32 --channel-mult 1 --num-res-blocks 1 --attention-resolutions 4 --patch-size 2 '
    '--batch-size 16 --lr 0.003 --warmup 5'
)


def tiny(**options):
    "Return an untrained denoiser of 8x8 images whose output depends on its input"
    torch.manual_seed(0)
    net = UNet(
        8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), patch_size=2, **options
    )
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    return EDMDenoiser(net)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    "A folder with two tiny models, one of them class-conditional"
    folder = tmp_path_factory.mktemp('models')
    save(tiny(), folder / 'plain.safetensors', card={'steps': 0})
    save(tiny(num_classes=10, null_class=True), folder / 'classes.safetensors')
    return folder


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
    "What runs commands in processes of their own that need not import torch again"
    folder = tmp_path_factory.mktemp('written')
    commands = Commands(folder / 'stdout', folder / 'stderr')
    yield commands
    commands.close()


@pytest.fixture
def difflow(run, commands, tmp_path):
    "Run a command in an empty folder, with options of `run` the console script; return the finished process"

    def forked(words):
        files = commands.log, commands.errors
        for file in files:
            file.write_text('')
        code, _ = commands.run(words, tmp_path, COLUMNS='200')
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))

    def difflow(line, code=0, **options):
        words = shlex.split(line)
        done = run(DIFFLOW, *words, **{'cwd': tmp_path} | options) if options else forked(words)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return difflow


def states(path):
    "Return the weights in the file at `path`"
    return load_denoiser(path).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Spelling


@pytest.mark.parametrize(
    'words, expected',
    [
        ('--step_reverse 25 50 --out a', '--step-reverse 25 --step-reverse 50 --out a'),
        ('--step-reverse 25,50', '--step-reverse 25,50'),
        ('--step_reverse 25 --step_reverse 50', '--step-reverse 25 --step-reverse 50'),
        ('--use_ddim True --seed 1', '--use-ddim --seed 1'),
        ('--class_cond False', '--no-class-cond'),
        ('--class_cond=f', '--no-class-cond'),
        ('--class-cond 0 --step_reverse 5 6', '--no-class-cond --step-reverse 5 --step-reverse 6'),
        ('--use-ddim --out True', '--use-ddim --out True'),
        ('--restart no --strict on', '--strict'),
        ('--restart --strict True --restart=0 --strict no', '--no-strict'),
        ('--step_reverse', '--step-reverse'),
        ('--data_dir 5 --seed 3', '--data-dir 5 --seed 3'),
        ('--data_dir --seed 3', '--data-dir --seed 3'),  # click says that --data-dir lacks its word
        ('--unknown_option 5', '--unknown_option 5'),
    ],
)
def test_spelling(words, expected):
    from option_changes import all_commands

    from difflow.cli.root import _click_words

    assert _click_words(all_commands()['forward-backward'].params, words.split()) == expected.split()


def test_every_switch_takes_every_word():
    from option_changes import all_commands

    from difflow.cli.root import _NO, _YES, _click_words

    seen = 0
    for command in all_commands().values():
        for option in command.params:
            if not getattr(option, 'is_flag', False):
                continue
            on, off = option.opts[:1], option.secondary_opts[:1]
            for name in option.opts:
                for word in (*_YES, 'True', 'ON'):
                    assert _click_words(command.params, [name, word]) == on
                    spelt = name.replace('-', '_').replace('__', '--', 1) if name[:2] == '--' else name
                    assert _click_words(command.params, [f'{spelt}={word}']) == on
                for word in (*_NO, 'False', 'OFF'):
                    assert _click_words(command.params, [f'{name}={word}', 'rest']) == [*off, 'rest']
            seen += 1
    assert seen > 30


# Help


def test_help_needs_no_torch(python):
    code = """if True:
        import sys
        from difflow.cli import main
        try: main(['sweep', '--help'])
        except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"""
    assert python(code).strip().endswith('0 False')


@pytest.mark.parametrize('command', ['sweep', 'sample', 'train', 'info'])
def test_help_says_unit_range_and_default(command, difflow):
    text = difflow(f'{command} --help').stdout
    assert command in difflow('--help').stdout
    for option in re.split(r'\n  (?=-)', text.split('Options:\n')[-1])[1:-1]:
        option = ' '.join(option.split())
        flag = option.split()[0]
        stated = '[default: ' in option or '[required]' in option or 'default: ' in option or flag == '--help'
        assert stated or 'is: difflow' in option, option
        if 'int range' in option:
            assert re.search(r'\dx?<=x|x>=\d|\d<=x', option), option


# What goes wrong


@pytest.mark.parametrize(
    'line, words',
    [
        ('swep', 'sweep'),
        ('info', 'file'),
        ('sweep --no-such', '--no-such'),
        ('sample --n many', '--n'),
        ('info nowhere.pt', 'nowhere.pt'),
        ('sweep --model {}/plain.safetensors --image broken.png', 'broken.png: unreadable'),
        ('train --data digits --out here --batch-size 9 --accumulate 2', 'batch_size'),
    ],
)
def test_errors_are_one_line(line, words, difflow, models, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n cut short')
    check_error(difflow(line.format(models), code=2), words)
    assert os.listdir(tmp_path) == ['broken.png']


def check_error(done, words):
    assert done.stdout == '' and done.stderr.count('\n') == 1 and done.stderr.startswith('difflow: '), (
        done.stderr
    )
    assert words in done.stderr


@pytest.mark.parametrize(
    'line, words',
    [
        ('sweep --model nowhere', 'known are'),
        ('sweep --model PLAIN --steps-reverse 0,99', '0..50, got 99'),
        ('sweep --model PLAIN --data nowhere', 'digits, mnist5k, colored_mnist'),
        ('sweep --model PLAIN --image 1000', '0..999'),
        ('sweep --model PLAIN --sampler euclid', 'ddpm, ddim, euler, heun, dpmpp_2m'),
        ('sweep --model PLAIN --label 1', 'no classes'),
        ('sweep --model PLAIN --convention both', 'matched, repo'),
        ('sweep --model PLAIN --device cuda:77', 'cuda:77'),
        ('sample --model CLASSES --label 10', '0..9'),
        ('sample --model PLAIN --guidance 2', 'guidance=2.0'),
        ('train --data digits --out here --channel-mult 1,x', "'1,x'"),
        ('train --data digits --out here --lr 0', 'lr'),
        ('train --data digits --out here --mixed-precision fp7', 'fp7'),
        ('train --data digits --out here --arch UNet', 'must be one of'),
        ('train --dataset afhq --out here', 'put its 14630 train images in dataset/afhq/train, 3 folders'),
        ('train --data digits --out here --epochs 2 --duration 1', '--duration and --epochs: give one'),
        ('train --data digits --out here --arch ddpmpp --num-heads 2', 'ddpmpp has no num_heads'),
        ('sample --model PLAIN --class-counts 0:5', 'no classes'),
        ('sample --model CLASSES --class-counts 10:5', '0..9'),
        ('sample --model CLASSES --class-counts 1:2,1:3', 'twice'),
        (
            'sample --model PLAIN --sampler heun --sampling-steps 5',
            '--sampler heun: on the levels of --sampling-steps it is ddpm or ddim',
        ),
        ('sample --model PLAIN --sampler euler --ddim', '--sampler euler and --ddim: give one'),
        ('sample --model PLAIN --steps 5 --sampling-steps 5', '--steps and --sampling-steps: give one'),
        ('sample --model PLAIN --sampling-steps 1', 'greater than or equal to 2'),
        ('train --dataset mnist --size 16', '--size goes with --data'),
        ('train --dataset mnist --split test', '--split goes with --data'),
        ('train --data digits --sampling-only', 'as difflow sample has it: No such option: --data'),
        (
            'train --data digits --sample-every 5 --sample-epochs 1',
            '--sample-every and --sample-epochs: give one',
        ),
        ('train --data digits x', 'unexpected extra argument(s) (x)'),
        ('train --data digits --delete-keys a b --steps 1', 'no --pretrained-ckpt'),
        ('train --dataset cifar10', 'from torchvision, which fetches it with --download'),
    ],
)
def test_what_the_library_refuses_is_one_line(line, words, models, tmp_path, monkeypatch, capsys):
    from difflow.cli import root as cli

    monkeypatch.chdir(tmp_path)
    names = {'PLAIN': f'{models}/plain.safetensors', 'CLASSES': f'{models}/classes.safetensors'}
    with pytest.raises(SystemExit) as stop:
        cli.main([names.get(word, word) for word in line.split()])
    printed = capsys.readouterr()
    assert (
        stop.value.code == 2 and printed.out == '' and printed.err.count('\n') == 1 and words in printed.err
    ), printed.err
    assert os.listdir() == []


def test_faults_of_ours_keep_their_traceback(monkeypatch):
    from difflow.checkpoints import load as checkpoints
    from difflow.cli import root as cli

    def broken(name):
        raise RuntimeError('ours')

    monkeypatch.setattr(checkpoints, 'describe', broken)
    with pytest.raises(RuntimeError, match='ours'):
        cli.main(['info', 'x'])


# What is written


def test_sweep_of_the_embedded_model_is_what_the_library_draws(difflow, tmp_path):
    start = time.perf_counter()
    done = difflow('sweep --image 3 --out folder/strip.png --gif film.gif', env={})
    assert time.perf_counter() - start < 60
    assert 'folder/strip.png, film.gif' in done.stdout and re.search(
        r'25 levels of .*, \d+\.\d s', done.stdout
    )
    images = load_images('mnist5k', split='test')
    expected = sweep(load_denoiser('mnist'), images.tensor([3]), [0, 25, 50], steps=50)
    strip, film = Image.open(tmp_path / 'folder/strip.png'), Image.open(tmp_path / 'film.gif')
    assert film.n_frames == 25 and film.info['loop'] == 0
    assert strip.width > 25 * 28 and strip.mode == 'L'
    drawn = difflow('sweep --image 3 --steps-reverse 50,0,25 --out three.png', env={}) and Image.open(
        tmp_path / 'three.png'
    )
    apart = (to_float(pixels(drawn)) - to_float(pixels(expected.strip()))).abs()
    assert drawn.size == expected.strip().size and apart.max() <= 4 / 255


def pixels(picture):
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)


def test_sweep_of_a_file_in_another_size(difflow, models, tmp_path):
    Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 50).convert('RGB').save(tmp_path / 'mine.jpg')
    difflow(
        f'sweep --model {models}/plain.safetensors --image mine.jpg --steps 6 --levels 4 --independent '
        '--convention repo'
    )
    assert Image.open(tmp_path / 'sweep.png').size[0] > 4 * 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine.jpg', 'sweep.png']


def test_sample_folders_load_with_their_labels(difflow, models, tmp_path):
    model = models / 'classes.safetensors'
    difflow(
        f'sample --model {model} --n 12 --seed 5 --steps 4 --batch-size 5 --guidance 1.5 --out made --grid'
    )
    assert (tmp_path / 'made/grid.png').exists()
    (tmp_path / 'made/grid.png').unlink()
    made = load_images(tmp_path / 'made')
    seeds = [int(Path(name).stem) for name in made.names]
    assert sorted(seeds) == list(range(5, 17)) and made.labels.tolist() == [(s - 5) % 10 for s in seeds]
    alone = sample(
        load_denoiser(model), (1, 1, 8, 8), steps=4, seeds=[9], labels=4, guidance=1.5, progress=False
    )
    assert (made.tensor([seeds.index(9)]) - alone.clamp(-1, 1)).abs().max() <= 1.5 / 127.5


def test_info_tells_of_foreign_files(difflow, models, tmp_path):
    assert re.search(r'parameters +\d+\n', difflow(f'info {models}/plain.safetensors').stdout)
    torch.save(
        UNet(32, 1, 32, 1, num_res_blocks=1, channel_mult=(1,), attention_resolutions=()).state_dict(),
        tmp_path / 'theirs.pt',
    )
    text = difflow('info theirs.pt').stdout
    assert 'guided-diffusion U-Net' in text and 'assumed' in text and 'missing' in text


def test_counts_and_a_larger_set(difflow, models, tmp_path):
    line = f'sample --model {models}/classes.safetensors --steps 2 --batch-size 3 --out made'
    difflow(f'{line} --class-counts 3:5,0:2 --npz made.npz')
    first = pngs(tmp_path / 'made')
    assert sorted(first) == ['0/000000.png', '0/000010.png', *(f'3/{10 * j + 3:06d}.png' for j in range(5))]
    (tmp_path / 'made/3/000003.png').unlink()
    more = difflow(f'{line} --num-sampled-images 25')
    whole = pngs(tmp_path / 'made')
    assert '22 made here' not in more.stdout and len(whole) == 27 and {n: whole[n] for n in first} == first
    assert load_images(tmp_path / 'made.npz').labels.tolist() == [0, 3, 0, 3, 3, 3, 3]


def pngs(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*.png')}


@pytest.mark.slow
def test_samples_do_not_depend_on_processes_and_hardly_on_the_batch(run, difflow, models, tmp_path):
    # torchrun would take --n
    line = f'sample --model {models}/classes.safetensors --num-sampled-images 23 --steps 2'
    difflow(f'{line} --batch-size 4 --out one')
    difflow(f'{line} --batch-size 7 --out other')
    torchrun = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc-per-node',
        '2',
        '--no-python',
        DIFFLOW,
    ]
    done = run(
        *torchrun,
        *shlex.split(f'{line} --batch-size 4 --out two'),
        cwd=tmp_path,
        env={'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0 and done.stdout.count('23 images') == 1, done.stdout + done.stderr
    assert pngs(tmp_path / 'one') == pngs(tmp_path / 'two')
    one, other = (load_images(tmp_path / name).images.int() for name in ('one', 'other'))
    assert (one - other).abs().max() <= 1


def test_published_walk(difflow, tmp_path):
    "DDPM and DDIM on minimal-diffusion's levels, from the command line and from the library"
    torch.manual_seed(0)
    net = UNet(8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), patch_size=2)
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    denoiser = DDPMDenoiser(net, Scheduler.cosine(1000))
    save(denoiser, tmp_path / 'eps.safetensors')
    walk = dict(scheduler=Scheduler.cosine(1000).respace('linspace5'), seeds=[0, 1], progress=False)
    for words, sampler in (('', 'ddpm'), ('--ddim', 'ddim'), ('--ddim --legacy', legacy_ddim)):
        out = f'made{len(words)}'
        difflow(f'sample --model eps.safetensors --n 2 --sampling-steps 5 {words} --out {out}')
        expected = sample(load_denoiser(tmp_path / 'eps.safetensors'), (2, 1, 8, 8), sampler, **walk)
        assert (load_images(tmp_path / out).tensor() - expected.clamp(-1, 1)).abs().max() <= 1.5 / 127.5


# Stopped half way


def stop_when(there, command, folder, how=signal.SIGINT):
    "Start `command`, press Ctrl-C once `there()`, and return its exit code and what it wrote on stderr"
    process = subprocess.Popen(
        [DIFFLOW, *shlex.split(command)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a job in the background ignores it
    try:
        deadline = time.monotonic() + 120
        while not there() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        process.send_signal(how)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, error


def test_ctrl_c_leaves_whole_images(models, tmp_path):
    made = tmp_path / 'made'
    command = f'sample --model {models}/plain.safetensors --n 100000 --steps 2 --batch-size 4 --out made'
    code, error = stop_when(lambda: made.exists() and len(list(made.glob('*.png'))) > 8, command, tmp_path)
    assert code == 130 and error.splitlines()[-1] == 'difflow: stopped' and 'Traceback' not in error
    files = [f for f in made.rglob('*') if f.is_file() and '.run' not in f.parts and f.name != 'run.json']
    assert len(files) > 8 and {f.suffix for f in files} == {'.png'} and not load_images(made).broken()


def test_ctrl_c_while_writing_keeps_what_was_there(models, tmp_path, monkeypatch, capsys):
    from difflow.cli import root as cli

    monkeypatch.chdir(tmp_path)
    for name in ('sweep.png', 'sweep.gif'):
        Path(name).write_bytes(b'before')

    def half(self, path, **options):
        if not isinstance(path, io.BytesIO):  # a GIF is made in memory
            Path(path).write_bytes(b'half')
        raise KeyboardInterrupt

    whole = Image.Image.save
    for broken in ('PNG', 'GIF'):
        monkeypatch.setattr(
            Image.Image,
            'save',
            lambda self, path, format, broken=broken, **options: (
                half if format.upper() == broken else whole
            )(self, path, format=format, **options),
        )
        with pytest.raises(SystemExit) as stop:
            cli.main(
                [
                    'sweep',
                    '--model',
                    str(models / 'plain.safetensors'),
                    '--steps',
                    '2',
                    '--levels',
                    '2',
                    '--gif',
                    'sweep.gif',
                ]
            )
        assert stop.value.code == 130 and capsys.readouterr().err.strip() == 'difflow: stopped'
        assert Path('sweep.gif').read_bytes() == b'before' and sorted(os.listdir()) == [
            'sweep.gif',
            'sweep.png',
        ]
    assert Image.open('sweep.png').size[0] > 8


def test_training_stopped_and_resumed_is_the_same(difflow, tmp_path):
    line = f'train --data digits {TINY} --steps 100 --save-every 10 --class-cond --out'
    state = tmp_path / 'stopped/training.safetensors'
    code, error = stop_when(state.exists, f'{line} stopped', tmp_path)
    assert code == 130 and 'Traceback' not in error
    assert [p.name for p in (tmp_path / 'stopped').iterdir()] == ['training.safetensors']
    resumed = difflow(f'{line} stopped').stdout
    assert 0 < int(re.search(r'^(\d+) of 100 steps, ', resumed, re.M)[1]) < 100
    difflow(f'{line} whole')
    models = [tmp_path / name / 'model.safetensors' for name in ('stopped', 'whole')]
    assert same(states(models[0]), states(models[1]))
    command = describe(models[1])['card']['command']
    difflow(command.removeprefix('difflow ') + ' --out again')
    assert same(states(tmp_path / 'again/model.safetensors'), states(models[1]))


def test_training_starts_from_a_snapshot_of_edm(difflow, tmp_path):
    from edm_files import snapshot

    net = edm_network(
        'ddpmpp', 8, 1, augment_dim=9, model_channels=32, channel_mult=[1], num_blocks=1, attn_resolutions=[4]
    )
    snapshot(tmp_path / 'network-snapshot-000100.pkl', 'EDMPrecond', net, sigma_data=0.5)
    line = (
        f'train --data digits {SMALL_EDM} --transfer network-snapshot-000100.pkl --lr 1e-12 --out'
    ).replace('--duration 0.001', '--steps 2')
    difflow(f'{line} on')
    after, before = states(tmp_path / 'on/model.safetensors'), net.state_dict()
    assert all(torch.allclose(before[k], after[f'net.{k}'], atol=1e-6) for k in before)
    assert 'seed 0 -> 1; give another --out' in difflow(f'{line} on --seed 1', code=2).stderr


SMALL_EDM = (
    '--arch ddpmpp --precond vp --duration 0.001 --batch 16 --lr-rampup 500 --ema 0.0005 --augment 0.12 '
    '--tick 0.2 --snap 2 --dump 3 --model-channels 32 --channel-mult 1 --num-res-blocks 1 '
    '--attention-resolutions 4'
)


def test_edm_training_stopped_and_resumed_is_the_same(difflow, tmp_path):
    line = f'train --data digits {SMALL_EDM} --save-every 5 --out'
    difflow(f'{line} whole')
    there = (tmp_path / 'stopped/training.safetensors').exists
    code, error = stop_when(there, f'{line} stopped', tmp_path, signal.SIGTERM)
    assert code == 143 and error == 'difflow: stopped\n'
    resumed = difflow(f'{line} stopped').stdout
    assert 0 < int(re.search(r'^(\d+) of 63 steps, ', resumed, re.M)[1]) < 63
    difflow(f'{line} other --resume whole/training-state-000000.safetensors')
    assert '\n63 of 63 steps, ' in difflow(f'{line} stopped --no-resume').stdout
    models = [load_denoiser(tmp_path / name / 'model.safetensors') for name in ('whole', 'stopped', 'other')]
    assert all(
        isinstance(m, VPDenoiser) and m.net.config['augment_dim'] == 9 and m.net.config['dropout'] == 0.13
        for m in models
    )
    assert same(models[0].state_dict(), models[1].state_dict()) and same(
        models[0].state_dict(), models[2].state_dict()
    )


@pytest.mark.slow
def test_training_on_two_processes_is_the_same(run, difflow, tmp_path):
    line = f'train --data digits {TINY} --steps 10 --lr 0.0001 --out'
    difflow(f'{line} one')
    torchrun = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nproc-per-node',
        '2',
        '--no-python',
        DIFFLOW,
    ]
    done = run(*torchrun, *shlex.split(f'{line} two'), cwd=tmp_path, env={'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('model.safetensors') == 1
    one, two = (states(tmp_path / name / 'model.safetensors') for name in ('one', 'two'))
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5


KEEP_LOSSES = """
import os, sys
import numpy as np
import difflow.training.loop
from difflow.cli import main
train = difflow.training.loop.train
def keep(*arguments, **options):
    result = train(*arguments, **options)
    np.save(f'{options["out"].name}-{os.environ.get("RANK", 0)}.npy', result.losses)
    return result
difflow.training.loop.train = keep
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        f'{SMALL_EDM} --data digits'.replace('--duration 0.001', '--steps 6'),
        '--arch UNetSmall --data mnist5k --class-cond --steps 3 --batch-size 4',
    ],
)
def test_published_recipes_on_two_processes_have_the_losses_of_one(options, run, tmp_path):
    (tmp_path / 'keep.py').write_text(KEEP_LOSSES)
    torchrun = ['-m', 'torch.distributed.run', '--nproc-per-node', '2']
    for name, start in (('one', []), ('two', torchrun)):
        done = run(
            sys.executable,
            *start,
            'keep.py',
            *shlex.split(f'train {options} --out {name}'),
            cwd=tmp_path,
            env={'OMP_NUM_THREADS': '1'},
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_denoiser(tmp_path / name / 'model.safetensors').state_dict() for name in ('one', 'two'))
    assert max((one[k] - two[k]).abs().max() for k in one) < 1e-5
    losses = {name: np.load(tmp_path / f'{name}.npy') for name in ('one-0', 'two-0', 'two-1')}
    for name in ('two-0', 'two-1'):
        np.testing.assert_allclose(losses[name], losses['one-0'], rtol=1e-5)
    assert len(set(losses['one-0'].round(4))) == len(losses['one-0'])  # a curve, and no constant


def test_a_published_checkpoint_is_tuned_to_another_number_of_classes(difflow, tmp_path):
    "A file of the published loop, every key behind `module.`, of ten classes; and a data set of three"
    config = dict(
        num_res_blocks=1, attention_resolutions=(4,), channel_mult=(1,), patch_size=2, num_classes=10
    )
    torch.manual_seed(1)
    before = {
        k: torch.randn_like(v) * 0.1
        for k, v in UNet(8, 1, 32, 1, **config, null_class=True).state_dict().items()
    }
    torch.save({f'module.{k}': v for k, v in before.items()}, tmp_path / 'UNet_epoch_1_ema_0.9995.pt')
    digits = load_images('digits')
    for c in range(3):
        save_images(digits[digits.labels == c][:8], tmp_path / f'three/{c}')
    line = (
        f'train --data three --class-cond --denoiser eps {TINY} --steps 1 '
        '--pretrained-ckpt UNet_epoch_1_ema_0.9995.pt'
    ).replace('0.003', '1e-12')
    assert 'label_emb.weight' in difflow(f'{line} --out a', code=2).stderr
    difflow(f'{line} --out b --delete-keys label_emb.weight out.2.bias --seed 4')
    after = {k.removeprefix('net.'): v for k, v in states(tmp_path / 'b/model.safetensors').items()}
    assert after['label_emb.weight'].shape == (4, 128) and before['label_emb.weight'].shape == (11, 128)
    fresh = [
        k for k in before if k != 'label_emb.weight' and not torch.allclose(before[k], after[k], atol=1e-6)
    ]
    assert fresh == ['out.2.bias']
    assert after['out.2.bias'].abs().max() < 1e-9  # as a new network begins, but for a step of 1e-12


def test_training_starts_from_a_checkpoint_but_for_deleted_keys(difflow, tmp_path):
    difflow(f'train --data digits {TINY} --steps 3 --out start')
    first = tmp_path / 'start/model.safetensors'
    still = TINY.replace('--lr 0.003', '--lr 1e-12')
    start = f'train --data digits {still} --steps 1 --seed 5 --pretrained-ckpt {first}'
    difflow(f'{start} --out a')
    before, after = states(first), states(tmp_path / 'a/model.safetensors')
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    difflow(f'{start} --out b --delete-keys out.2.weight')
    after = states(tmp_path / 'b/model.safetensors')
    fresh = [k for k in before if not torch.allclose(before[k], after[k], atol=1e-6)]
    assert fresh == ['net.out.2.weight']
    difflow(f'{start} --out two --delete-keys out.2.weight --delete-keys time_embed.0.bias,time_embed.2.bias')
    after = states(tmp_path / 'two/model.safetensors')
    assert 'net.out.2.weight' in [k for k in before if not torch.allclose(before[k], after[k], atol=1e-6)]
    assert (
        '--delete-keys out.2.weight,time_embed.0.bias,time_embed.2.bias'
        in describe(tmp_path / 'two/model.safetensors')['card']['command']
    )
    assert 'neither in' in difflow(f'{start} --out c --delete-keys nothing', code=2).stderr
    assert (
        'no --pretrained-ckpt'
        in difflow(f'train --data digits {TINY} --steps 1 --out d --delete-keys x', code=2).stderr
    )


# A published script's name after `difflow`


@pytest.mark.parametrize(
    'line, instead',
    [
        ('train.py --outdir=out --cond=1', 'difflow train --outdir=out --cond=1'),
        ('scripts/classifier_statistics.py --num_samples 5', 'difflow classifier-statistics --num_samples 5'),
        ('main.py --arch UNet --dataset mnist', 'difflow train --arch UNet --dataset mnist'),
        ('main.py --config=c.py --mode=train', 'difflow train-encoder --config=c.py --mode=train'),
        ('fid.py ref --data=a', 'difflow fid ref --data=a'),
        (
            '-m torch.distributed.launch --nproc_per_node=4 --master_port 8101 main.py --arch UNet',
            'torchrun --nproc_per_node=4 --master_port 8101 -m difflow train --arch UNet',
        ),
    ],
)
def test_a_script_is_answered_with_the_line_to_type(line, instead, capsys):
    from difflow.cli import main

    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    assert stop.value.code == 2 and capsys.readouterr().err.endswith(f'type: {instead}\n')
