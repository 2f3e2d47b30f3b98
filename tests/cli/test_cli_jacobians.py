"""`difflow jacobian` as people get it: published spellings, files, going on, and errors in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from option_changes import call, check_change, command_options, files_of
from PIL import Image

from difflow import EDMDenoiser, Scheduler, UNet, jacobian_spectrum, load_denoiser, save
from difflow.jacobians import ranks_along, trajectory, trajectory_ranks

DIFFLOW = Path(sys.executable).parent / 'difflow'
SMALL = '--steps 4 --samples 3 --batch-size 2'


def tiny(**options):
    "Return an untrained denoiser of 4x4 images whose output depends on its input"
    torch.manual_seed(0)
    net = UNet(4, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), **options)
    for p in net.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.6 / p[0].numel() ** 0.5)
    return EDMDenoiser(net)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with a plain and a class-conditional model"
    folder = tmp_path_factory.mktemp('models')
    save(tiny(), folder / 'plain.safetensors', card={'steps': 0})
    save(tiny(num_classes=3), folder / 'classes.safetensors')
    save(tiny(num_classes=3, null_class=True), folder / 'free.safetensors')
    return folder


@pytest.fixture
def difflow(folder, difflow_here):
    "Run a line in this process, where DIR stands for `folder`"
    return lambda line: difflow_here(line.replace('DIR', str(folder)))


def test_console_script_knows_the_command(run, tmp_path):
    done = run(DIFFLOW, 'jacobian', '--help', cwd=tmp_path, env={'COLUMNS': '200'})
    assert done.returncode == 0
    for name in ('--network', '--steps', '--sigma_min', '--sigma_max', '--rho', '--class', '--network_pkl'):
        assert name in done.stdout


def test_help_needs_no_torch(python):
    code = """if True:
        import sys
        from difflow.cli import main
        try: main(['jacobian', '--help'])
        except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"""
    assert python(code).strip().endswith('0 False')


def test_table_is_what_the_library_says(difflow, folder):
    code, out, err = difflow(
        f'jacobian --network DIR/plain.safetensors {SMALL} --sigma_min 0.01 --sigma_max 20 --rho 5'
    )
    assert code == 0, err
    first, *lines, last = out.strip().split('\n')
    assert first.startswith('model ') and first.endswith(
        '4x4x1, no classes; 3 points of seeds 0..2 at 4 noise levels, 20..0.01'
    )
    assert '3 points at 4 levels' in last
    file = np.load('jacobian.npz')
    means = zip(file['sigmas'], file['rank'].mean(1))
    assert lines == [f'SNR 1/sigma_t: {1 / sigma:.3f}, rank: {mean:.6g}' for sigma, mean in means]
    expected = trajectory_ranks(
        load_denoiser(folder / 'plain.safetensors'), 4, range(3), scheduler=Scheduler.karras(4, 0.01, 20, 5)
    )
    assert (file['rank'] == expected.rank.numpy()).all() and int(file['dim']) == 16
    assert file['sigmas'] == pytest.approx(expected.sigmas.numpy()) and file['snr'] == pytest.approx(
        1 / file['sigmas']
    )
    assert file['seeds'].tolist() == [0, 1, 2]
    assert Image.open('jacobian.png').size == (840, 480)


def test_class_is_passed_to_walk_and_jacobian(difflow, folder):
    assert difflow(f'jacobian --network DIR/classes.safetensors {SMALL} --class 2 --out two.npz')[0] == 0
    assert difflow(f'jacobian --network DIR/classes.safetensors {SMALL} --out turn.npz')[0] == 0
    two, turn = np.load('two.npz'), np.load('turn.npz')
    assert two['labels'].tolist() == [2, 2, 2] and turn['labels'].tolist() == [0, 1, 2]
    expected = trajectory_ranks(load_denoiser(folder / 'classes.safetensors'), 4, range(3), labels=2)
    assert (two['rank'] == expected.rank.numpy()).all() and (two['rank'][:, 2] == turn['rank'][:, 2]).all()


def test_goes_on_where_it_stopped(difflow, monkeypatch):
    import difflow.jacobians.trajectories as module

    line = 'jacobian --network DIR/plain.safetensors --steps 4 --batch-size 2'
    assert difflow(f'{line} --samples 5 --out whole.npz')[0] == 0
    real, calls = module.ranks_along, []

    def stopping(*args, seeds=None, **options):
        if seeds is None:  # the check before any work
            return real(*args, **options)
        calls.append(seeds)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, seeds=seeds, **options)

    monkeypatch.setattr(module, 'ranks_along', stopping)
    assert difflow(f'{line} --samples 5 --out part.npz')[0] == 130
    assert sorted(p.name for p in Path('part.npz.parts').glob('*.npz')) == ['000000.npz']
    assert difflow(f'{line} --samples 5 --out part.npz')[0] == 0
    assert calls[2:] == [[1], [2], [3], [4]]
    assert sorted(p.name for p in Path().iterdir()) == ['part.npz', 'part.png', 'whole.npz', 'whole.png']
    assert Path('part.npz').read_bytes() == Path('whole.npz').read_bytes()
    assert difflow(f'{line} --samples 3 --out grown.npz')[0] == 0
    assert difflow(f'{line} --samples 5 --out grown.npz')[0] == 0
    assert Path('grown.npz').read_bytes() == Path('whole.npz').read_bytes() and calls[-2:] == [[3], [4]]
    code, out, _ = difflow(f'{line} --samples 3 --out grown.npz')
    assert code == 0 and '5 points at 4 levels' in out and '2 of the points from before' in out
    assert Path('grown.npz').read_bytes() == Path('whole.npz').read_bytes()


def test_with_k_a_point_does_not_depend_on_its_neighbours(difflow):
    "The search goes on until it is certain of all points that it is handed"
    line = 'jacobian --network digits --steps 3 --k 2 --energy 0.9'
    assert difflow(f'{line} --samples 4 --out whole.npz')[0] == 0
    assert difflow(f'{line} --samples 1 --out grown.npz')[0] == 0
    assert difflow(f'{line} --samples 4 --batch-size 1 --out grown.npz')[0] == 0
    assert Path('grown.npz').read_bytes() == Path('whole.npz').read_bytes()


@pytest.mark.parametrize('more', ['', ' --k 8'])
def test_another_threshold_is_answered_from_the_values_that_were_kept(more, difflow, monkeypatch):
    import difflow.jacobians.trajectories as module

    line = f'jacobian --network DIR/plain.safetensors {SMALL} --out ranks.npz{more}'
    assert difflow(line)[0] == 0
    first = np.load('ranks.npz')
    values = first['values']
    assert values.shape == (4, 3, 8 if more else 16) and (np.diff(values, axis=2) <= 0).all()
    count = []
    monkeypatch.setattr(module, 'jacobian_spectrum', lambda *_, **__: count.append(1))
    code, out, err = difflow(f'{line} --energy 0.9')
    assert code == 0 and not count, err
    assert 'at energy 0.9 from the singular values that were kept' in out
    again = np.load('ranks.npz')
    energy = np.sqrt(np.cumsum(again['values'] ** 2, axis=2))
    if not more:  # all values are known: the published rule, word for word
        assert (again['rank'] == (energy <= 0.9 * energy[..., -1:]).sum(2) + 1).all()
    assert (again['rank'] <= first['rank']).all() and (again['rank'] < first['rank']).any()
    assert (again['values'] == first['values']).all()
    assert difflow(line)[0] == 0 and not count
    assert (np.load('ranks.npz')['rank'] == first['rank']).all()
    if more:  # what is searched for new points depends on it
        code, _, err = difflow(f'{line} --energy 0.9 --samples 4')
        assert code == 2 and 'energy 0.99 -> 0.9' in err


def test_jacobian_as_the_published_script_takes_it(difflow, folder):
    "One point, by the network's published name or by --as-published, which leaves the class to the walk"
    line = 'jacobian --class 2 --steps 4 --S_churn 0 --S_min=0 --S_max inf --S_noise 1'
    code, out, err = difflow(f'{line} --network_pkl DIR/free.safetensors --out one.npz')
    assert code == 0 and err.count('has nothing to do here: the published script takes it') == 4
    assert [len(np.load('one.npz')[name]) for name in ('seeds', 'sigmas')] == [1, 4]
    assert difflow(f'{line} --network DIR/free.safetensors --as-published --out bare.npz')[0] == 0
    bare, denoiser = np.load('bare.npz'), load_denoiser(folder / 'free.safetensors')
    found = ranks_along(denoiser, 2, seeds=[0], walk=dict(steps=4), labelled=False)
    for level, (sigma, x) in enumerate(trajectory(denoiser, seeds=[0], labels=2, steps=4)):
        values = jacobian_spectrum(denoiser, x, sigma).values
        assert bare['values'][level] == pytest.approx(values.numpy(), abs=1e-5)
        assert next(found)[2].values == pytest.approx(values.numpy(), abs=1e-5)
    code, _, err = difflow('jacobian --network DIR/classes.safetensors --unlabelled')
    assert code == 2 and 'labels' in err
    code, _, err = difflow('jacobian --network DIR/plain.safetensors --network_pkl DIR/plain.safetensors')
    assert code == 2 and 'give one of them' in err


def test_two_processes_share_the_points(run, folder, tmp_path):
    line = [DIFFLOW, 'jacobian', '--network', folder / 'plain.safetensors']
    line = [str(word) for word in [*line, *'--steps 4 --samples 6'.split()]]
    ranks, env = [], os.environ | {'WORLD_SIZE': '2', 'OMP_NUM_THREADS': '1'}
    for rank in '01':
        options = dict(cwd=tmp_path, env=env | {'RANK': rank}, text=True)
        ranks.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options))
    printed = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert ''.join(printed).count('6 points at 4 levels') == 1
    assert printed[0].startswith('model ') and not printed[1].startswith('model ')
    both = files_of(tmp_path)
    assert list(both) == ['jacobian.npz', 'jacobian.png']
    done = run(*line, '--restart', cwd=tmp_path, env={'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0 and files_of(tmp_path) == both, done.stderr


@pytest.mark.parametrize(
    'line, message',
    [
        ('--class 0', '--class 0: this model has no classes'),
        ('--sigma-min 5 --sigma-max 2', '5..2 must rise'),
        ('--sigma-min -1', '-1..80 must rise'),
        ('--k 17', 'k must be an integer in 1..16, got 17'),
        ('--energy 1.5', 'energy must be a number > 0 and < 1, got 1.5'),
        ('--rho 0', 'rho must be a number > 0, got 0.0'),
        ('--at 1,x', "--at '1,x': not numbers"),
        ('--sampler leap', 'sampler must be one of'),
        ('--out ranks.csv', 'ranks.csv: the name must end in .npz'),
        ('--steps 0', "'--steps'"),
        ('--samples 0', "'--samples'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(line, message, difflow):
    code, out, err = difflow(f'jacobian --network DIR/plain.safetensors {line}')
    assert code == 2 and message in err and len(err.strip().split('\n')) == 1
    assert list(Path().iterdir()) == []


def test_class_out_of_range(difflow):
    assert difflow('jacobian --network DIR/classes.safetensors --class 3')[2].startswith(
        'difflow: --class 3: allowed is 0..2'
    )


def test_another_network_of_the_same_name_is_refused(difflow):
    torch.manual_seed(1)
    save(tiny(), 'net.safetensors')
    line = f'jacobian --network net.safetensors {SMALL} --out ranks.npz'
    assert difflow(line)[0] == 0
    before = Path('ranks.npz').read_bytes()
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    save(other, 'net.safetensors')
    code, _, err = difflow(line)
    assert code == 2 and 'is of another run: model ' in err and Path('ranks.npz').read_bytes() == before


def test_other_settings_and_broken_files_are_refused(difflow):
    line = f'jacobian --network DIR/plain.safetensors {SMALL} --out ranks.npz'
    assert difflow(line)[0] == 0
    before = Path('ranks.npz').read_bytes()
    code, _, err = difflow(f'{line} --rho 3')
    assert code == 2 and 'rho 7.0 -> 3.0' in err and Path('ranks.npz').read_bytes() == before
    Path('ranks.npz').write_bytes(before[:100])
    code, _, err = difflow(line)
    assert code == 2 and 'does not state which run it is of' in err
    assert difflow(f'{line} --restart')[0] == 0 and Path('ranks.npz').read_bytes() == before


LINE = 'jacobian --network plain.safetensors --steps 3 --samples 2 --batch-size 2 --at 5'
CHANGES = dict(
    network=('other.safetensors', 'model'),
    steps='2',
    sigma_min='0.1',
    sigma_max='20',
    rho='3',
    label=('--network classes.safetensors --class 1', 'label'),
    samples='3',
    seed='1',
    at='5,1',
    k='16',
    energy='0.5',
    unlabelled='',
    network_pkl=None,  # below
    S_churn='40',
    S_min='1',
    S_max='50',
    S_noise='1.003',
    as_published=('', 'unlabelled'),
    sampler='euler',
    out='other.npz',
    batch_size='1',
    chunk='7',
    restart='',
    device='cpu',
)


@pytest.fixture(scope='module')
def models(folder, tmp_path_factory):
    "A folder with the models that an option may name"
    models = tmp_path_factory.mktemp('inputs')
    for name in ('plain', 'classes'):
        (models / f'{name}.safetensors').write_bytes((folder / f'{name}.safetensors').read_bytes())
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    save(other, models / 'other.safetensors')
    return models


@pytest.fixture(scope='module')
def finished(models, tmp_path_factory):
    "A folder in which the line has run"
    folder = tmp_path_factory.mktemp('finished') / 'run'
    shutil.copytree(models, folder)
    assert call(LINE, folder)[0] == 0
    return folder


@pytest.mark.parametrize('option', command_options('jacobian'))
def test_an_option_changed_between_two_runs(option, models, finished, tmp_path):
    check_change(option, LINE, CHANGES, finished, tmp_path, models)
