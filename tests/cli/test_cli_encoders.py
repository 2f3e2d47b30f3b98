"""`difflow train-encoder` and `represent` in the words of the published scripts, beyond the printed lines."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_runs import lay_data
from option_changes import call, command_options, files_of

from difflow import TimeEncoder
from difflow.cli.encoder_options import _FIXED, _UNUSED, _USED

CONFIG = '--config=configs/ve/cifar10_ncsnpp_small_continuous.py'
LINE = (
    f'train-encoder {CONFIG} --workdir=run --mode=train --config.data.dataset=synthetic '
    '--config.training.include_encoder=True --config.training.lambda_z=1e-5 '
    '--config.model.widen_factor=0.0625 --config.training.n_iters=4 --config.training.snapshot_freq=4 '
    '--config.training.log_freq=1 --config.training.eval_freq=2 '
    '--config.training.snapshot_freq_for_preemption=2 --config.model.num_res_blocks=1'
)


@pytest.fixture
def place(tmp_path):
    "A folder with the data of the study"
    lay_data(tmp_path)
    return tmp_path


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A folder in which the line has run"
    folder = tmp_path_factory.mktemp('finished')
    lay_data(folder)
    code, printed = call(LINE, folder)
    assert code == 0, printed
    return folder


def weights(folder):
    "Return what is in the files of torch.save, by their names"
    return {
        f'{path.relative_to(folder)}': torch.load(path, weights_only=True) for path in folder.rglob('*.pth')
    }


def messages(folder):
    "Return the lines of the log without their times, but for those of a start"
    lines = (folder / 'stdout.txt').read_text().splitlines()
    return [line.split(' - ')[-1] for line in lines if 'Starting' not in line]


def test_files_of_a_run(finished):
    found = weights(finished / 'run_0')
    assert set(found) == {
        'checkpoints_/checkpoint_0.pth',
        'checkpoints_/checkpoint_1.pth',
        'checkpointsenc_/encoder_state_0.pth',
        'checkpointsenc_/encoder_state_1.pth',
        'checkpoints-meta_/checkpoint.pth',
    }
    steps = {name: state['step'] for name, state in found.items() if 'step' in state}
    assert steps == {
        'checkpoints_/checkpoint_0.pth': 1,
        'checkpoints_/checkpoint_1.pth': 5,
        'checkpoints-meta_/checkpoint.pth': 5,
    }
    state = found['checkpoints_/checkpoint_1.pth']
    assert len(state['ema']['shadow_params']) == len(state['optimizer']['state'])
    names = [name for name in state['model'] if 'running' not in name and 'num_batches' not in name]
    assert len(names) >= len(state['ema']['shadow_params'])
    kinds = [line.split(':')[1].split(', ')[-1] for line in messages(finished / 'run_0')]
    assert kinds.count('training_loss') == 5 and kinds.count('eval_loss') == 3
    assert not (finished / 'run_0/states').exists()


def test_a_stopped_training_goes_on(finished, place, monkeypatch):
    import difflow.cli.encoders as module

    class Stopped(module._StudyLog):
        def loss(self, step, kind, *rest):
            super().loss(step, kind, *rest)
            if (step, kind) == (3, 'training_loss'):
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, '_StudyLog', Stopped)
        assert call(LINE, place)[0] == 130
    assert not (place / 'run_0/checkpointsenc_/encoder_state_1.pth').exists()
    assert call(LINE, place)[0] == 0
    before, after = files_of(finished / 'run_0'), files_of(place / 'run_0')
    assert messages(place / 'run_0') == messages(finished / 'run_0')
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert before.keys() - same <= {'stdout.txt', 'training.safetensors'}


def test_a_finished_training_is_left_as_it_is(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'again')
    before = files_of(finished)
    code, printed = call(LINE, tmp_path / 'again')
    assert code == 0 and 'encoder_state_1.pth' in printed
    assert files_of(tmp_path / 'again') == before


OTHER = {
    int: '3',
    float: '0.25',
    bool: 'True',
}
VALUES = {
    'training.experiment_name': 'other',
    'training.probabilistic_encoder': 'True',
    'training.lambda_reconstr': '-1 --config.training.lambda_z=0',
    'training.recon': 'bce',
    'model.ch_mult': '(1,1)',
    'model.attn_resolutions': '(8,)',
    'model.nf': '8',
    'model.sigma_max': '40',
    'data.dataset': 'cmnist',
}


@pytest.mark.parametrize(
    'field', [f for f in _USED if f not in ('training.seed', 'training.include_encoder')]
)
def test_a_field_changed_is_another_run(field, finished, tmp_path):
    folder = tmp_path / 'again'
    shutil.copytree(finished, folder)
    before = files_of(folder)
    value = VALUES.get(field) or OTHER[_USED[field][0]]
    code, printed = call(f'{LINE} --config.{field}={value}', folder)
    assert code == 2 and ' is of another run: ' in printed and f' {field} ' in printed, printed
    assert files_of(folder) == before


def test_all_options_are_of_a_kind():
    own = 'config workdir mode batch_size bn_momentum data_root eval_folder as_published'.split()
    fields = {field.replace('.', '_') for field in (*_USED, *_FIXED, *_UNUSED)}
    assert set(command_options(LINE)) == fields | set(own)


@pytest.mark.parametrize('field', _FIXED)
def test_a_field_with_one_value_is_refused(field, place):
    value = _FIXED[field]
    other = {bool: not value, str: f'{value}x', float: 7.0}.get(type(value), 7)
    code, printed = call(f'{LINE} --config.{field}={other}', place)
    assert (
        code == 2 and printed.strip() == f'difflow: --config.{field} {other}: only {value} is trained here'
    ), printed


@pytest.mark.parametrize(
    'words, message',
    [
        ('--mode=eval', '--mode=eval: only train is there'),
        ('--config=configs/vp/ddpm/cifar10.py', 'known by its name is cifar10_ncsnpp_small_continuous.py'),
        ('--config.data.dataset=CIFAR10', 'known are cifar10, cifar100'),
        ('--config.data.dataset=celeba --data-root=nowhere', 'list_eval_partition.csv is missing'),
        ('--config.training.lambda_reconstr=0.5', 'both at once are not trained here'),
        ('--config.training.lambda_reconstr=-1', 'an autoencoder has none, give 0'),
        ('--config.training.eval_freq=0', '--config.training.eval_freq 0: an integer >= 1'),
        ('--config.training.recon=l1', 'allowed are l2, bce'),
        ('--config.model.ch_mult=(1,x)', 'integers >= 1, as (1, 2, 2, 2)'),
        ('--config.model.widen_factor=0.01', 'k must be 0 or at least 1/16'),
        ('--config.optim.lr=0', 'lr must be'),
    ],
)
def test_errors_are_one_line_and_leave_nothing(words, message, place):
    before = files_of(place)
    code, printed = call(f'{LINE} {words}', place)
    assert code == 2 and message in printed and len(printed.strip().split('\n')) == 1, printed
    assert files_of(place) == before


def test_an_encoder_is_asked_for(place):
    for words in ('', '--config.training.include_encoder=False'):
        line = LINE.replace('--config.training.include_encoder=True', words)
        code, printed = call(line, place)
        assert code == 2 and 'give --config.training.include_encoder=True' in printed


def test_what_nothing_reads_is_said(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'again')
    words = [f'--config.{field}=1' for field in _UNUSED]
    code, printed = call(f'{LINE} {" ".join(words)} --eval_folder=there', tmp_path / 'again')
    assert code == 0
    for field in _UNUSED:
        assert f'difflow: --config.{field} has nothing to do here: ' in printed


def test_the_task_of_slurm_is_added_to_the_seed(place, monkeypatch):
    monkeypatch.setenv('SLURM_PROCID', '1')
    monkeypatch.setenv('SLURM_NTASKS', '3')
    line = LINE.replace('n_iters=4', 'n_iters=1') + ' --config.training.seed=5'
    code, printed = call(line, place)
    assert code == 0 and ', seed 6; ' in printed and (place / 'run_6/stdout.txt').exists(), printed
    assert [p.name for p in place.glob('run*')] == ['run_6']


def test_published_statistics_remember_a_tenth(finished, place):
    line = LINE.replace('n_iters=4', 'n_iters=1').replace('snapshot_freq=4', 'snapshot_freq=1')
    assert call(f'{line} --as-published', place)[0] == 0
    assert call(line.replace('workdir=run', 'workdir=ours'), place)[0] == 0
    read = lambda name: torch.load(place / f'{name}_0/checkpointsenc_/encoder_state_0.pth')[
        'bn1.running_mean'
    ]
    assert torch.allclose(read('run'), 9 * read('ours'), rtol=1e-4)  # 0.9 and 0.1 of the first batch


def test_a_run_of_the_published_script_does_not_go_on(place):
    theirs = place / 'run_0/checkpoints-meta_/checkpoint.pth'
    theirs.parent.mkdir(parents=True)
    torch.save({'step': 10000}, theirs)
    before = files_of(place)
    code, printed = call(LINE, place)
    assert code == 2 and 'is of another program' in printed and files_of(place) == before


RUN = Path('trained_models/2e-4/reg-drl/synthetic_0.0625_none_0')
CODES = 'represent --data synthetic --mode reg-drl --widen-factor 0.0625 --lr 2e-4'


@pytest.fixture
def encoded(place):
    "A folder with the codes of the synthetic set at the times of two granularities"
    torch.manual_seed(0)
    state = TimeEncoder(1 / 16, 3, False, 28, 16.0).state_dict()
    (place / RUN / 'checkpointsenc_').mkdir(parents=True)
    torch.save(state, place / RUN / 'checkpointsenc_/encoder_state_1.pth')
    code, printed = call(f'{CODES} --granularity 2,5', place)
    assert code == 0, printed
    return place


def test_codes_that_are_there_are_kept(encoded):
    before = files_of(encoded)
    assert call(f'{CODES} --granularity 2,5', encoded)[0] == 0 and files_of(encoded) == before
    (encoded / RUN / 'train_5.pkl').unlink()
    assert call(f'{CODES} --granularity 2,5', encoded)[0] == 0 and files_of(encoded) == before
    assert call(f'{CODES} --granularity 2,5 --restart', encoded)[0] == 0 and files_of(encoded) == before


def test_codes_of_the_published_script_are_kept_and_those_of_others_refused(encoded):
    path = encoded / RUN / 'test_5.pkl'
    content = pickle.loads(path.read_bytes())
    near = {t: codes + np.float32(1e-6) for t, codes in content['Representation'].items()}
    path.write_bytes(pickle.dumps(content | {'Representation': near}, 4))
    before = files_of(encoded)
    assert call(f'{CODES} --granularity 2,5', encoded)[0] == 0 and files_of(encoded) == before
    far = {t: codes + 1 for t, codes in near.items()}
    path.write_bytes(pickle.dumps(content | {'Representation': far}, 4))
    code, printed = call(f'{CODES} --granularity 2,5', encoded)
    assert code == 2 and 'test_5.pkl is of another run: ' in printed


@pytest.mark.parametrize(
    'words, message',
    [
        ('--steps 3', '--steps is not for --data synthetic'),
        ('--transform cifar10', '--transform is not for --data synthetic'),
        ('--granularity 1', 'out of those of 2'),
        ('--lr 0.0002', 'trained_models/0.0002/reg-drl/synthetic_0.0625_none_0/checkpointsenc_'),
        ('--mixup', 'synthetic_0.0625_none_mixup_0/checkpointsenc_/encoder_state_1.pth is missing'),
        ('--aug simclr', 'synthetic_0.0625_simclr_0/checkpointsenc_/encoder_state_1.pth is missing'),
        ('--aug flip', '--aug flip: known are none, simclr'),
        ('--seed 3', '--workdir=trained_models/2e-4/reg-drl/synthetic_0.0625_none --mode=train'),
        ('--widen-factor 2', 'must have'),
        ('--data-root nowhere', 'nowhere/synthetic/train_imgs.npy is missing'),
    ],
)
def test_what_is_no_run_of_the_study_is_refused(words, message, encoded):
    before = files_of(encoded)
    if words == '--widen-factor 2':  # an encoder of another width
        shutil.copytree(encoded / RUN, encoded / f'{RUN}'.replace('0.0625', '2'))
        message, before = 'conv1', files_of(encoded)
    code, printed = call(f'{CODES} {words}', encoded)
    assert code == 2 and message in printed, printed
    assert files_of(encoded) == before


def test_mixup_is_of_the_study(tmp_path):
    code, printed = call('represent --data digits --mixup', tmp_path)
    assert code == 2 and '--mixup: only for the sets of the study' in printed


def test_the_data_lie_where_they_are_said_to(encoded):
    "The study's folder moves as a whole"
    (encoded / 'data').rename(encoded / 'elsewhere')
    assert call(f'{CODES} --granularity 2,5 --data-root elsewhere', encoded)[0] == 0
