"""Killed or asked to stop at any moment, and given again: every file as if nothing had happened."""

import random
import signal

import pytest
from forked_commands import Commands, content

from difflow.data import save_images

LINES = {
    'train': (
        'train --data pictures --steps 30 --batch-size 8 --model-channels 32 --channel-mult 1 '
        '--num-res-blocks 1 --attention-resolutions 8 --save-every 10 --sample-every 10 --tick 0.08 '
        '--snap 1 --dump 2 --out run'
    ),
    'sample': ('sample --model digits --n 24 --steps 12 --batch-size 4 --grid --npz samples.npz --out run'),
    'generate': ('generate --network digits --seeds 0-23 --steps 12 --batch 4 --subdirs --outdir run'),
    'forward-backward': (
        'forward-backward --data_dir pictures --model_path digits --step_reverse 2 4 6 '
        '--timestep_respacing 8 --batch_size 4 --out run'
    ),
    'classifier-statistics': (
        'classifier-statistics --classifier-name mnist5k --data-dir mnist5k --num-samples 400 '
        '--batch-size 40 --output run.npz --pickle run.pk'
    ),
    'evaluate-classifier': (
        'evaluate-classifier --starting-data-dir mnist5k --data-dir back --classifier-name mnist5k '
        '--statistics given.npz --batch-size 8 --output run.npz --picture run.png --pickles run'
    ),
    'sscd feature': ('sscd feature --images pictures28 --features run.npz --model mnist5k --batch 4'),
    'represent': (
        'represent --data digits --max-images 120 --steps 12 --batch-size 20 --widen-factor 0.125 '
        '--depth 10 --granularity 4 --root run'
    ),
    'mix': (
        'mix --data digits --widen-factor 0.125 --mixers single,mean,concat --epochs 3 --seeds 2 '
        '--lrs 0.01 --root given --out run.json'
    ),
    'jacobian': ('jacobian --network digits --samples 8 --steps 3 --batch-size 2 --out run.npz'),
    'cas': (
        'cas --synthetic pictures28 --real mnist5k --max-real 200 --epochs 1 --seeds 2 --protocol '
        'epochs --out run.npz'
    ),
}


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    "A folder with what the commands read"
    from difflow import load_images

    folder = tmp_path_factory.mktemp('given')
    digits, mnist = load_images('digits'), load_images('mnist5k', split='test')
    save_images(digits[:24], folder / 'pictures', [f'{i:06d}' for i in range(24)])
    per_class = [i for c in range(10) for i in (mnist.labels == c).nonzero()[:4, 0].tolist()]
    names = [f'{int(mnist.labels[i])}/{i:06d}' for i in per_class]
    save_images(mnist[per_class], folder / 'pictures28', names)
    return folder


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
    server = Commands(tmp_path_factory.mktemp('log') / 'commands.log')
    yield server
    server.close()


@pytest.fixture(scope='module')
def prepared(given, commands):
    "What some commands need of others, made once"
    run = lambda line: commands.run(line.split(), given)
    mnist = 'forward-backward --data_dir mnist5k --num_classes 2 --num_per_class 8 --model_path mnist'
    for line in (
        f'{mnist} --step_reverse 2 6 --timestep_respacing 8 --batch_size 8 --out back',
        'classifier-statistics --classifier-name mnist5k --data-dir mnist5k --num-samples 100 '
        '--output given.npz',
        LINES['represent'].replace('--root run', '--root given'),
    ):
        assert run(line)[0] == 0, commands.log.read_text()[-2000:]
    return given


@pytest.fixture(scope='module')
def whole(prepared, commands, tmp_path_factory):
    "{command: (what it leaves when nothing happens, seconds)}, made when it is asked for"
    made = {}

    def of(name):
        if name not in made:
            folder = fresh(prepared, tmp_path_factory.mktemp('whole'))
            code, seconds = commands.run(LINES[name].split(), folder)
            assert code == 0, commands.log.read_text()[-2000:]
            made[name] = content(folder), seconds
        return made[name]

    return of


def fresh(given, folder):
    "Put links to what is given into an empty folder"
    for path in given.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def compare(folder, wanted):
    left = content(folder)
    assert sorted(left) == sorted(wanted)
    assert [name for name in wanted if left[name] != wanted[name]] == []


def strike(name, commands, whole, prepared, folder, moments):
    "Kill a command at moments that are shares of the time that it takes, then let it end"
    wanted, seconds = whole(name)
    fresh(prepared, folder)
    ends = [commands.struck(LINES[name].split(), folder, share * seconds) for share in moments]
    assert set(ends) <= {-signal.SIGKILL, 0}
    code, _ = commands.run(LINES[name].split(), folder)
    assert code == 0, commands.log.read_text()[-2000:]
    compare(folder, wanted)


@pytest.mark.parametrize('name', LINES)
def test_killed_once_and_given_again(name, commands, whole, prepared, tmp_path):
    strike(name, commands, whole, prepared, tmp_path, [random.Random(name).uniform(0.2, 0.9)])


@pytest.mark.slow
@pytest.mark.parametrize('name', LINES)
def test_killed_five_times_and_given_again(name, commands, whole, prepared, tmp_path):
    draw = random.Random(f'{name} again')
    for i in range(5):
        folder = tmp_path / str(i)
        folder.mkdir()
        strike(name, commands, whole, prepared, folder, [draw.uniform(0.05, 1)])


@pytest.mark.parametrize('name', LINES)
def test_asked_to_stop_and_given_again(name, commands, whole, prepared, tmp_path):
    "Ctrl-C, SIGTERM and Slurm's SIGUSR1, in turn over the commands"
    wanted, seconds = whole(name)
    number = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)[list(LINES).index(name) % 3]
    fresh(prepared, tmp_path)
    code = commands.struck(LINES[name].split(), tmp_path, 0.5 * seconds, number)
    assert code in (130 if number == signal.SIGINT else 143, 0)
    assert commands.run(LINES[name].split(), tmp_path)[0] == 0, commands.log.read_text()[-2000:]
    compare(tmp_path, wanted)


def test_what_is_compared_is_there(whole):
    "The runs leave files, and no file says when or where it was made"
    for name in LINES:
        wanted, _ = whole(name)
        mine = [file for file in wanted if file.startswith('run')]
        assert mine and not [file for file in wanted if '.partial' in file or '/.run' in file], name
