"""A run that is stopped at any moment, by anything: nothing is lost, and nothing is different."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_networks import affine

from difflow import normal, train

IMAGES = 0.5 * normal((64, 1, 2, 2))
RUN = dict(steps=400, batch_size=16, lr=1e-2, progress=False)
HERE = str(Path(__file__).parent)

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler) # a job in the background would ignore it
sys.path.insert(0, sys.argv[1])
import torch
from test_interrupted import IMAGES, RUN, affine
from difflow import train
torch.set_num_threads(1)
def callback(step, loss):
    if step == 1: print('going', flush=True)
    time.sleep(0.005)
try: train(affine(), IMAGES, **RUN, out=sys.argv[2], callback=callback)
except KeyboardInterrupt: sys.exit(130)
"""


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "What an uninterrupted run leaves"
    folder = tmp_path_factory.mktemp('whole')
    train(affine(), IMAGES, **RUN, out=folder)
    return contents(folder)


def steps(folder):
    from safetensors import safe_open

    with safe_open(folder / 'training.safetensors', 'pt') as file:
        return json.loads(file.metadata()['step'])


def kept_after(number, pause, folder):
    "Send a signal to a run some time after its second step; return whether it ends as it should"
    process = subprocess.Popen(
        [sys.executable, '-c', SCRIPT, HERE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'going\n'
    time.sleep(pause)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else 143)
    assert sorted(contents(folder)) == ['training.safetensors'] and 2 <= steps(folder) < RUN['steps']


MOMENTS = random.Random(14)
STOPS = [(n, MOMENTS.uniform(0, 0.6)) for _ in range(7) for n in ('SIGINT', 'SIGTERM', 'SIGUSR1')][:20]


@pytest.mark.parametrize(
    'name, pause', [*STOPS[:3], *(pytest.param(*stop, marks=pytest.mark.slow) for stop in STOPS[3:])]
)
def test_a_signal_keeps_the_state_and_changes_nothing(name, pause, whole, tmp_path):
    kept_after(getattr(signal, name), pause, tmp_path)
    train(affine(), IMAGES, **RUN, out=tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize('after', [0.011, 0.034, 0.057, 0.101])
def test_an_interrupt_by_any_handler_never_leaves_half_a_step(after, whole, tmp_path):
    "As a notebook's, or that of another library: an exception in whatever the main thread is doing"

    def interrupt(*_):
        raise KeyboardInterrupt

    def begin(step, loss):
        if step == 3:
            signal.setitimer(signal.ITIMER_REAL, after)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(affine(), IMAGES, **RUN, out=tmp_path, callback=begin)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert steps(tmp_path) >= 4
    train(affine(), IMAGES, **RUN, out=tmp_path)
    assert contents(tmp_path) == whole


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from pathlib import Path
import difflow.files, difflow.training.loop
from difflow import EDMDenoiser, SongUNet, train
import accelerate, accelerate.tracking, safetensors.torch, tqdm.auto, torch._dynamo # once for all
from training_networks import song
torch.set_num_threads(1)
home, replace = Path(sys.argv[2]), os.replace

def run(folder, last=None):
    "Train in a process of its own, which ends at once at a moment before a file has its name"
    child = os.fork()
    if child: return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    moments = []
    def moment():
        if len(moments) == last: os._exit(9)
        moments.append(1)
    def renamed(*names): # after one file is before the next
        moment()
        replace(*names)
    difflow.files.os.replace = renamed
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    train(EDMDenoiser(song(0)), images, steps=4, batch_size=4, progress=False, out=folder, save_every=2,
          sample_every=2, preview=dict(steps=2), dumps={2: 'state-2.safetensors'},
          snapshots={1: 'snapshot-1.safetensors', 4: 'snapshot-4.safetensors'}, card={'data': 'eight images'})
    (home / 'moments').write_text(str(len(moments)))
    os._exit(0)

assert run(home / 'whole') == 0
for last in range(int((home / 'moments').read_text())):
    assert run(home / f'killed-{last}', last) == 9
    assert run(home / f'killed-{last}') == 0
"""


def test_killed_at_any_moment_and_begun_again_the_folder_is_the_same(tmp_path):
    done = subprocess.run([sys.executable, '-c', KILLED, HERE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, killed = contents(tmp_path / 'whole'), sorted(tmp_path.glob('killed-*'))
    assert len(whole) == 7 and len(killed) == 8  # the state is written twice
    for folder in killed:
        again = contents(folder)
        assert again.keys() == whole.keys(), folder
        assert [name for name in whole if again[name] != whole[name]] == [], folder


def test_files_of_a_step_whose_state_was_kept_first_are_made_when_the_run_goes_on(tmp_path):
    "An interrupt while a grid is drawn: the state is kept at once, the grid is drawn by the next start"
    seen = []

    def interrupted(step, averaged):
        seen.append(step)
        if len(seen) == 2:
            raise KeyboardInterrupt

    fields = dict(steps=6, batch_size=8, progress=False, out=tmp_path, snapshot_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(affine(), IMAGES, **fields, snapshot=interrupted)
    assert steps(tmp_path) == 4
    train(affine(), IMAGES, **fields, snapshot=lambda step, averaged: seen.append(step))
    assert seen == [2, 4, 4, 6]


def test_handlers_are_as_before(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    inside = []
    train(
        affine(),
        IMAGES,
        steps=2,
        batch_size=8,
        progress=False,
        callback=lambda step, loss: inside.append(signal.getsignal(signal.SIGTERM)),
    )
    assert inside[0] != before[1]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_folder_that_goes_away_is_no_traceback_and_no_loss(tmp_path):
    import shutil

    out = tmp_path / 'run'
    train(
        affine(),
        IMAGES,
        steps=4,
        batch_size=8,
        progress=False,
        save_every=1,
        out=out,
        callback=lambda step, loss: step == 2 and shutil.rmtree(out),
    )
    assert [p.name for p in out.iterdir()] == ['training.safetensors'] and steps(out) == 4
