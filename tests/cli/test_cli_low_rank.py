"""`difflow train-molrg`: the study's data file, every option changed between two runs, going on."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from option_changes import call, command_options, files_of
from safetensors.torch import load_file
from training_runs import torch_bytes

from difflow.cli.low_rank import _latest, _settings_of
from difflow.networks import edm_network
from edm_files import precond, snapshot

NAME = 'MoLRG_dataset_resolution2_classnum2_perclassdim2_sample20'
LINE = (
    'train-molrg --outdir training --path datasets --img_res 2 --class_num 2 --per_class_dim 2 '
    '--sample_per_class 20 --embed_channels 16 --cres 1 --batch 500 --duration 0.001 --tick 0.5'
)
RUN = f'training/{NAME}/00000-MoLRG-uncond-ddpmpp-edm-gpus1-batch500-fp32'


def published_mixture(resolution, classes, d, n):
    "Return what the study's script saves: blocks of columns of a random orthonormal matrix, channels last"
    torch.manual_seed(3)
    whole = torch.linalg.svd(torch.randn(3 * resolution**2, 3 * resolution**2))[0]
    basis = torch.stack([whole[:, d * k : d * k + d] for k in range(classes)])
    data = torch.cat([torch.randn(n, d) @ basis[k].T for k in range(classes)])
    return {
        'basis': basis,
        'space_basis': whole,
        'data': data.reshape(-1, resolution, resolution, 3),
        'class_num': classes,
        'sample_per_class': n,
        'per_class_dim': d,
        'resolution': resolution,
        'conds': torch.arange(classes).repeat_interleave(n),
    }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A folder in which the line has run"
    folder = tmp_path_factory.mktemp('finished') / 'run'
    folder.mkdir()
    code, printed = call(LINE, folder)
    assert code == 0, printed
    return folder


@pytest.fixture
def again(finished, tmp_path):
    "A copy of that folder, and what runs another line there"
    shutil.copytree(finished, tmp_path / 'run')
    return lambda more='': call(f'{LINE} {more}', tmp_path / 'run')


def test_the_data_file_of_the_study_is_read(tmp_path):
    path = tmp_path / f'datasets/{NAME}.pt'
    path.parent.mkdir()
    torch.save(published_mixture(2, 2, 2, 20), path)
    before = path.read_bytes()
    code, printed = call(LINE, tmp_path)
    assert code == 0 and f'datasets/{NAME}.pt, read' in printed and path.read_bytes() == before
    other = tmp_path / 'other'
    other.mkdir()
    assert call(LINE, other)[0] == 0  # drawn: other data, another network
    assert (tmp_path / RUN / 'model.safetensors').read_bytes() != (
        other / RUN / 'model.safetensors'
    ).read_bytes()


class Harm:
    def __reduce__(self):
        return os.system, ('touch harm',)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(basis=None), 'basis must be a tensor (2, 12, 2), got None'),
        (dict(data=torch.zeros(40, 3, 2, 2)), 'data must be a tensor (40, 2, 2, 3)'),
        (dict(class_num=3), 'its class_num is 3, --class_num is 2'),
        (dict(basis=torch.ones(2, 12, 2)), 'bases must have orthonormal columns'),
        (dict(more=Harm()), 'nothing in it was run'),
    ],
)
def test_another_data_file_is_refused(change, words, tmp_path):
    path = tmp_path / f'datasets/{NAME}.pt'
    path.parent.mkdir()
    torch.save(published_mixture(2, 2, 2, 20) | change, path)
    code, printed = call(LINE, tmp_path)
    assert code == 2 and words in printed and printed.count('\n') == 1, printed
    assert sorted(p.name for p in tmp_path.rglob('*')) == [f'{NAME}.pt', 'datasets']


SAME, NEXT, ELSEWHERE = 'same', 'next', 'elsewhere'  # goes on, takes the next number, lies in another folder
CHANGES = dict(
    outdir=('other', ELSEWHERE),
    path=('other', SAME),  # which is written there once more, the same images
    img_res=('3', ELSEWHERE),
    class_num=('3', ELSEWHERE),
    per_class_dim=('3', ELSEWHERE),
    sample_per_class=('21', ELSEWHERE),
    cond=('', '--cond: the published network takes no classes'),
    arch=('ncsnpp', NEXT),
    precond=('vp', NEXT),
    embed_channels=('32', NEXT),
    cbase=('32', NEXT),
    cres=('2', NEXT),
    duration=('0.002', NEXT),
    batch=('250', NEXT),
    batch_gpu=('250', NEXT),
    lr=('0.01', NEXT),
    ema=('0.1', NEXT),
    dropout=('0', NEXT),
    augment=('0', NEXT),
    optimizer=('sgd', NEXT),
    levels=('independent', NEXT),
    fp16=('', None),  # on a CPU the same numbers under another name
    ls=('2', SAME),
    bench=('1', SAME),
    workers=('0', SAME),
    desc=('more', NEXT),
    nosubdir=('', ELSEWHERE),
    tick=('1', None),  # the files of the way, below
    snap=('1', None),
    dump=('1', None),
    seed=('1', None),  # another mixture in the file, below
    transfer=(f'{RUN}/model.safetensors', NEXT),
    resume=('', SAME),
    resumedir=(RUN, SAME),
    restart=('', SAME),
    dry_run=('', SAME),
    as_published=('', NEXT),
)


@pytest.mark.parametrize('option', [name for name in command_options('train-molrg')])
def test_an_option_changed_between_two_runs(option, again, tmp_path):
    value, kind = CHANGES[option]
    if kind is None:
        return
    flag = command_options('train-molrg')[option].opts[0]
    before = files_of(tmp_path / 'run' / RUN)
    code, printed = again(f'{flag} {value}')
    assert before['model.safetensors'] == (tmp_path / 'run' / RUN / 'model.safetensors').read_bytes()
    if kind not in (SAME, NEXT, ELSEWHERE):
        assert code == 2 and kind in printed
        return
    assert code == 0, printed
    numbered = sorted(p.name for p in (tmp_path / 'run/training' / NAME).iterdir() if p.is_dir())
    assert [name[:5] for name in numbered] == (['00000', '00001'] if kind == NEXT else ['00000'])
    models = list((tmp_path / 'run').rglob('model.safetensors'))
    assert len(models) == (1 if kind == SAME else 2)
    if kind == SAME and option not in ('restart', 'dry_run'):
        assert '0 of 2 steps, ' in printed


def test_the_seed_is_of_the_data_where_they_are_drawn(again, tmp_path):
    code, printed = again('--seed 1')
    assert code == 0 and ', read; ' in printed and '00001-MoLRG' in printed  # the data are there already
    code, printed = again('--seed 1 --path elsewhere')
    one, two = (
        torch.load(tmp_path / f'run/{where}/{NAME}.pt', weights_only=True)
        for where in ('datasets', 'elsewhere')
    )
    assert not torch.equal(one['data'], two['data']) and not torch.equal(one['basis'], two['basis'])
    assert ', drawn from seed 1; ' in printed


def test_files_of_the_way(tmp_path):
    code, printed = call(f'{LINE} --snap 1 --dump 1 --duration 0.002 --desc all', tmp_path)
    folder = tmp_path / f'{RUN}-all'
    names = {path.name for path in folder.iterdir()}
    assert code == 0 and {f'network-snapshot-{k:06d}.safetensors' for k in (0, 1, 2)} <= names
    assert {f'training-state-{k:06d}.safetensors' for k in (1, 2)} <= names


def test_sgd_takes_plain_steps_of_the_published_size(tmp_path):
    "The first step has rate 0: so twice the rate moves twice as far, and the loss of the study is a sum"
    moved, start = [], None
    for lr in (0.5, 1.0):
        where = tmp_path / f'{lr}'
        where.mkdir()
        more = f'--optimizer sgd --lr {lr} --augment 0 --dropout 0'
        assert call(f'{LINE} {more}', where)[0] == 0
        options = json.loads((where / RUN / 'training_options.json').read_text())
        assert options['optimizer_kwargs'] == dict(class_name='torch.optim.SGD', lr=lr)
        state = load_file(where / RUN / 'training.safetensors')
        start = {k: v for k, v in load_file(where / RUN / 'network-snapshot-000000.safetensors').items()}
        moved.append(torch.cat([(state[f'raw.net.{k}'] - v).flatten().double() for k, v in start.items()]))
    assert moved[0].norm() > 0 and (moved[1] - 2 * moved[0]).norm() < 1e-3 * moved[1].norm()
    given = dict(batch_size=500, duration=0.001, optimizer='sgd', lr=0.5)
    assert _settings_of(given, (3, 2, 2)).lr == 6.0 and _settings_of(given, (3, 2, 2)).optimizer == 'sgd'


def lay_published_state(folder):
    "Lay out a snapshot and a state of the original for 2 x 2 images; return the last weights"
    torch.manual_seed(5)
    make = lambda: edm_network(
        'ddpmpp', 2, 3, model_channels=16, channel_mult=[1], augment_dim=9, dropout=0.13
    )
    average, raw = make(), make()
    for parameter in raw.parameters():
        parameter.grad = torch.randn_like(parameter)
    adam = torch.optim.Adam(raw.parameters(), lr=1e-3)
    adam.step()
    folder.mkdir(parents=True)
    snapshot(folder / 'network-snapshot-000001.pkl', 'EDMPrecond', average, sigma_data=0.5)
    content = dict(net=precond('EDMPrecond', raw, sigma_data=0.5), optimizer_state=adam.state_dict())
    (folder / 'training-state-000001.pt').write_bytes(torch_bytes(content))
    return raw


@pytest.mark.parametrize('words', [f'--resumedir {RUN}', '--resume True'])
def test_a_state_of_the_original_is_gone_on_from(words, tmp_path):
    raw = lay_published_state(tmp_path / RUN)
    code, printed = call(f'{LINE} --duration 0.002 {words}', tmp_path)
    assert code == 0 and '2 of 4 steps are made' in printed and '2 of 4 steps, ' in printed, printed
    ours = load_file(tmp_path / RUN / 'training.safetensors')
    moved = [(ours[f'raw.net.{k}'] - v).abs().max().item() for k, v in raw.named_parameters()]
    assert 0 < max(moved) < 1e-3
    code, printed = call(f'{LINE} --duration 0.002 {words}', tmp_path)
    assert code == 0 and '0 of 4 steps, ' in printed  # from its own state now


def test_latest_folder(tmp_path):
    assert _latest(tmp_path / 'none') is None and _latest(tmp_path) is None
    for name in ('00002-MoLRG', '00010-MoLRG', 'notes', '00003-MoLRG'):
        (tmp_path / name).mkdir()
    assert _latest(tmp_path) == tmp_path / '00010-MoLRG'


@pytest.mark.parametrize(
    'more, words',
    [
        ('--arch mlp', 'is missing in the published repository'),
        ('--arch param-mlp', 'is missing in the published repository'),
        ('--arch unet', 'allowed are ddpmpp, ncsnpp, adm'),
        ('--class_num 7', 'at most 3 * --img_res**2 = 12'),
        ('--optimizer lion', 'allowed are adam, sgd'),
        ('--resume 1 --resumedir there', 'give one of them'),
        ('--duration 0', '--duration must be > 0'),
        ('--lr 0', 'lr must be'),
        ('--batch-gpu 3', 'must divide'),
        ('--snap 0', '--snap'),
    ],
)
def test_errors_are_one_line_and_leave_nothing(more, words, tmp_path):
    code, printed = call(f'{LINE} {more}', tmp_path)
    assert code == 2 and words in printed and printed.count('\n') == 1, printed
    assert list(tmp_path.iterdir()) == []


def test_dry_run_reads_and_writes_nothing(tmp_path):
    code, printed = call(f'{LINE} -n', tmp_path)
    assert code == 0 and printed.rstrip().endswith('a dry run, nothing is written')
    assert '"class_name": "training.dataset.MoLRG"' in printed and list(tmp_path.iterdir()) == []
    assert Path(NAME).name in printed
