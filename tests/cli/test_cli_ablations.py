"""`difflow mix` and `information` as published ablations: options, reruns, the study's files, refusals."""

import shutil

import numpy as np
import pytest
import torch
from mixer_runs import lay_codes, lay_networks, saved_network
from option_changes import call, check_change, command_options, files_of

BRIEF = '--epochs 1 --batch-size 20 --hidden 8 --seeds 2'
MASK = f'mix --data cifar10 --mask 2 --mode reg-drl --granularity 5 --lrs 1e-2,1e-3 --score-seeds 2 {BRIEF}'
MASK_CHANGES = dict(
    data='cifar100',
    mode='noreg-drl',
    widen_factor=('4', 'digest'),
    aug=('simclr', 'digest'),
    mixup=('', 'digest'),
    score_lr='1e-4',
    lr='0.001',
    granularity='10',
    mask='4',
    score_seeds=('1', 'digest'),
    epochs='2',
    batch_size='10',
    seeds='3',
    lrs='1e-2',
    hidden='16',
    root=('elsewhere', 'digest'),
    restart='',
    device='cpu',
)
FEAT = (
    'mix --data cmnist --feat Digit --mode reg-drl --granularity 2 --widen-factor 0.25 --score-seeds 1 '
    + BRIEF
)
FEAT_CHANGES = dict(
    data=None,  # of other factors: `test_factors_are_of_their_set`
    mode='noreg-drl',
    widen_factor='0.5',
    aug=('simclr', 'digest'),
    mixup=('', 'digest'),
    score_lr='1e-4',
    lr='2e-4',
    granularity='5',
    feat='"Foreground Color"',
    down_lr='5e-4',
    score_seeds='2',
    epochs='2',
    batch_size='10',
    seeds='3',
    hidden='16',
    root=('elsewhere', 'digest'),
    restart='',
    device='cpu',
)


def laid(folder, name, data, wide, other, classes, g, finer):
    "Codes of two encoders wherever an option may look for them, each other than the others"
    places = [
        (f'{name}_{wide}_none', 'reg-drl', '2e-4', g, ''),
        (f'{data}_{wide}_none', 'reg-drl', '2e-4', g, ''),
        (f'{name}_{wide}_none', 'noreg-drl', '2e-4', g, ''),
        (f'{name}_{other}_none', 'reg-drl', '2e-4', g, ''),
        (f'{name}_{wide}_simclr', 'reg-drl', '2e-4', g, ''),
        (f'{name}_{wide}_none_mixup', 'reg-drl', '2e-4', g, ''),
        (f'{name}_{wide}_none', 'reg-drl', '1e-4', g, ''),
        (f'{name}_{wide}_none', 'reg-drl', '2e-4', g, 'elsewhere'),
    ]
    for i, (place, mode, lr, granularity, root) in enumerate(places):
        lay_codes(folder / root, place, granularity, 4, classes, range(2), lr, mode, counts=(40 + i, 20))
    if 'elsewhere' in (p.name for p in folder.iterdir()):
        (folder / 'elsewhere/trained_models/2e-4').rename(folder / 'elsewhere/2e-4')
    for seed in range(2):
        for split in ('train', 'test'):
            where = folder / f'trained_models/2e-4/reg-drl/{name}_{wide}_none_{seed}'
            lay_codes(folder / 'finer', name, finer, 4, classes, (10 * seed + (split == 'test'),))
            fine = folder / f'finer/trained_models/2e-4/reg-drl/{name}_{10 * seed + (split == "test")}'
            shutil.copy(fine / f'{split}_{finer}.pkl', where)
    shutil.rmtree(folder / 'finer')
    return folder


@pytest.fixture(scope='module')
def masked(tmp_path_factory):
    "A folder with codes, and one in which the ablation has run"
    inputs = laid(tmp_path_factory.mktemp('codes'), 'cifar10', 'cifar100', 2, 4, (5,), 5, 10)
    folder = tmp_path_factory.mktemp('finished') / 'run'
    shutil.copytree(inputs, folder)
    code, printed = call(MASK, folder)
    assert code == 0, printed
    return inputs, folder


@pytest.fixture(scope='module')
def factored(tmp_path_factory):
    "A folder with codes of three factors, and one in which a read-out of one is trained"
    inputs = laid(tmp_path_factory.mktemp('codes'), 'cmnist', 'other', 0.25, 0.5, (10, 9, 9), 2, 5)
    folder = tmp_path_factory.mktemp('finished') / 'run'
    shutil.copytree(inputs, folder)
    code, printed = call(FEAT, folder)
    assert code == 0, printed
    return inputs, folder


@pytest.mark.parametrize('option', MASK_CHANGES)
def test_an_option_of_mask_changed_between_two_runs(option, masked, tmp_path):
    check_change(option, MASK, MASK_CHANGES, masked[1], tmp_path, masked[0])


@pytest.mark.parametrize('option', FEAT_CHANGES)
def test_an_option_of_feat_changed_between_two_runs(option, factored, tmp_path):
    check_change(option, FEAT, FEAT_CHANGES, factored[1], tmp_path, factored[0])


@pytest.mark.parametrize('option', command_options('mix'))
def test_an_option_goes_with_an_ablation_or_is_refused(option, masked, factored, tmp_path):
    values = dict(
        seed='1', mixers='gru', standardise='', out='a.json', perf='', down_lr='1e-3', feat='Digit', mask='1'
    )
    for line, changes, (_, folder) in ((MASK, MASK_CHANGES, masked), (FEAT, FEAT_CHANGES, factored)):
        if option in changes:
            continue
        value = values.get(option, changes.get(option) or '1')
        word = next(o for o in command_options('mix')[option].opts)
        before = files_of(folder)
        code, printed = call(f'{line} {word} {value}', folder)
        assert code == 2 and 'does not go with' in printed and files_of(folder) == before, printed


def test_a_killed_ablation_goes_on(masked, tmp_path, monkeypatch):
    inputs, folder = masked
    run = tmp_path / 'run'
    shutil.copytree(inputs, run)
    import difflow.cli.ablations as module

    done, real = [], module._mask_row

    def row(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(module, '_mask_row', row)
    assert call(MASK, run)[0] == 130 and len(done) == 2
    monkeypatch.setattr(module, '_mask_row', lambda *args: done.append(1) or real(*args))
    assert call(MASK, run)[0] == 0 and len(done) == 4
    assert files_of(run) == files_of(folder)


def test_networks_of_the_study_are_kept(factored, tmp_path):
    inputs, folder = factored
    run = tmp_path / 'run'
    shutil.copytree(inputs, run)
    place = run / 'cmnist_models/2e-4/reg-drl/0.25/2/Digit/0.001'
    place.mkdir(parents=True)
    (place / '0-1.pt').write_bytes(saved_network(0, 4, 10, 50.0, 40.0))
    code, printed = call(FEAT, run)
    assert code == 0 and 'those of encoder 0 that are there are kept' in printed, printed
    assert (place / '0-1.pt').read_bytes() == saved_network(0, 4, 10, 50.0, 40.0)
    other = folder / place.relative_to(run)
    assert (place / '0-0.pt').read_bytes() == (other / '0-0.pt').read_bytes()
    code, printed = call(f'{FEAT} --restart', run)
    assert code == 0 and (place / '0-1.pt').read_bytes() == (other / '0-1.pt').read_bytes()


def test_an_ablation_of_the_study_is_not_replaced(masked, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(masked[0], run)
    (run / 'Ablation/2e-4').mkdir(parents=True)
    path = run / 'Ablation/2e-4/reg-drl_cifar10_2_5_perf.pkl'
    path.write_bytes(b'theirs')
    code, printed = call(MASK, run)
    assert code == 2 and 'is there already, and not of this command' in printed
    assert path.read_bytes() == b'theirs'
    assert call(f'{MASK} --restart', run)[0] == 0 and path.read_bytes() != b'theirs'


def test_a_task_of_slurm_is_a_run_of_its_own(factored, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    shutil.copytree(factored[0], run)
    monkeypatch.setenv('SLURM_NTASKS', '6')
    for task, rate in ((1, '0.00075'), (4, '0.0001')):
        monkeypatch.setenv('SLURM_PROCID', str(task))
        assert call(FEAT, run)[0] == 0
        assert (run / f'cmnist_models/2e-4/reg-drl/0.25/2/Digit/{rate}/0-1.pt').exists()
    monkeypatch.setenv('SLURM_PROCID', '6')
    monkeypatch.setenv('SLURM_NTASKS', '7')
    code, printed = call(FEAT, run)
    assert code == 2 and 'learning rates are 0..5' in printed


def test_the_seed_of_a_read_out_is_that_of_the_task(masked, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    shutil.copytree(masked[0], run)
    monkeypatch.setenv('SLURM_PROCID', '1')
    monkeypatch.setenv('SLURM_NTASKS', '2')
    line = f'mix --data cifar10 --mode reg-drl --granularity 5 --mixers single,mean {BRIEF}'
    assert call(line, run)[0] == 0
    place = run / 'trained_models/2e-4/reg-drl/cifar10_2_none_1'
    assert (place / 'mix_5.json').exists() and (place / 'eval_log_opt_5.txt').exists()
    assert not (place.with_name('cifar10_2_none_0') / 'mix_5.json').exists()


def test_a_log_that_is_there_ends_at_once(masked, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(masked[0], run)
    place = run / 'trained_models/2e-4/reg-drl/cifar10_2_none_0'
    (place / 'eval_log_opt_5.txt').write_text('Pretrained:\n')
    line = f'mix --data cifar10 --mode reg-drl --granularity 5 --mixers single {BRIEF}'
    code, printed = call(line, run)
    assert (
        code == 0 and printed.startswith('Evaluation Already Done') and len(printed.strip().split('\n')) == 1
    )
    assert not (place / 'mix_5.json').exists()
    code, printed = call(f'{line} --restart', run)
    assert code == 0 and 'Time: 0.2 |' in (place / 'eval_log_opt_5.txt').read_text()
    code, printed = call(f'{line} --standardise', run)  # ours says what it is of
    assert code == 2 and 'standardise False -> True' in printed


@pytest.mark.parametrize(
    'line, message',
    [
        ('mix --data cifar10 --mode reg-drl', '--data cifar10 needs --granularity G'),
        ('mix --data cifar10 --granularity 10', 'train_10.pkl is missing, and train.npz beside it'),
        ('mix --mask 5', "'--mask'"),
        ('mix --mask 2 --granularity 10', 'cifar10_2_none_0/train_10.pkl is missing'),
        ('mix --mask 2 --feat Digit', '--feat does not go with --mask'),
        ('mix --score-seeds 2', '--score-seeds is for --mask, --feat and --perf'),
        ('mix --lr 1e-4 --score-lr 2e-4', '--lr 1e-4 and --score-lr 2e-4: give one of them'),
        ('mix --feat Digit', '--feat is for --data cmnist, synthetic, celeba, got none of them'),
        ('mix --data cmnist --feat Location --granularity 10', 'cmnist has Digit, Background Color'),
        ('mix --data celeba --feat 40 --granularity 10', "--feat '40': celeba has 0, 1"),
        ('mix --data cmnist --perf --granularity 10', '--perf needs --feat'),
        ('mix --data cmnist --perf --feat Digit --granularity 10', '0/10/Digit/0.001/0-0.pt is missing'),
        ('information --activations --data celeba', '--activations needs --granularity'),
        (
            'information --activations --granularity 10',
            '--activations is for --data cmnist, synthetic, celeba',
        ),
        ('information --activations --data cmnist --granularity 10', '--activations needs --feat'),
        ('information --jsd', 'celeba_activations/probabilistic-drl/2/10/0.pt is missing'),
        ('information --plot', 'MI-Logs has no complete matrix'),
        ('information --plot --idx 3', '--idx does not go with --plot'),
        ('information --feat Digit', '--feat does not go with the estimates'),
        ('information --idx 121', '--idx must be in 0..120'),
        ('information', 'test_10.pkl is missing'),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(line, message, tmp_path):
    code, printed = call(line, tmp_path)
    last = printed.strip().split('\n')
    assert code == 2 and message in last[-1], printed
    assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


def test_factors_are_of_their_set(tmp_path):
    "Labels of another set are refused, and so are files that are no networks"
    lay_codes(tmp_path, 'cmnist_0.25_none', 2, 4, (10, 9))
    line = FEAT.replace('--granularity 2', '--granularity 2 --down-lr 1e-3')
    code, printed = call(line, tmp_path)
    assert code == 2 and 'wanted are 3 of each image' in printed
    shutil.rmtree(tmp_path / 'trained_models')
    lay_codes(tmp_path, 'cmnist_0.25_none', 2, 4, (11, 9, 9))
    code, printed = call(line, tmp_path)
    assert code == 2 and 'Digit has classes 0..10, allowed are 0..9' in printed
    lay_networks(tmp_path, 'cmnist', 'Digit', 'reg-drl', '2e-4', (0.25,), 2, 4, 1, 1)
    broken = tmp_path / 'cmnist_models/2e-4/reg-drl/0.25/2/Digit/5e-05/0-0.pt'
    torch.save({'Validation Accuracy': 1.0}, broken)
    perf = 'mix --data cmnist --perf --feat Digit --mode reg-drl --granularity 2 --score-seeds 1 --seeds 1'
    code, printed = call(f'{perf} --widen-factor 0.25', tmp_path)
    assert code == 2 and f'{broken.relative_to(tmp_path)} is no network of this study' in printed
    broken.write_bytes(saved_network(0, 4, 10, 50.0, 40.0)[:-100])
    assert call(f'{perf} --widen-factor 0.25', tmp_path)[0] == 2


def test_the_scripts_own_layout_is_found(tmp_path):
    "The scripts stand in downstream_classification, beside diffusion_model"
    lay_codes(tmp_path / 'diffusion_model', 'cifar10_2_none', 2, 8)
    here = tmp_path / 'downstream_classification'
    here.mkdir()
    line = f'mix --mixers gru --data cifar10 --mode reg-drl --granularity 2 {BRIEF}'
    assert call(line, here)[0] == 0
    place = tmp_path / 'diffusion_model/trained_models/2e-4/reg-drl/cifar10_2_none_0'
    assert (place / 'eval_log_rnn_opt_2.txt').exists() and list(here.iterdir()) == []


INFORMATION = 'information --mode reg-drl --idx 13 --hidden 8 --steps 100'
INFORMATION_CHANGES = dict(
    data='cifar100',
    mode='probabilistic-drl',
    widen_factor='4',
    score_lr=('1e-4', 'digest'),
    seed='1',
    s='1',
    idx='24',
    steps='101',
    hidden='16',
    root=('elsewhere', 'digest'),
    restart='',
    device='cpu',
    plot=None,  # these ask for other files: tested above, and in information_runs.py
    activations=None,
    jsd=None,
    feat=None,
    granularity=None,
    score_seeds=None,
    seeds=None,
)


@pytest.fixture(scope='module')
def estimated(tmp_path_factory):
    "A folder with codes, and one in which a cell is made"
    inputs = tmp_path_factory.mktemp('codes')
    places = [
        ('cifar10_2_none', 'reg-drl', '2e-4', (0, 1)),
        ('cifar100_2_none', 'reg-drl', '2e-4', (0,)),
        ('cifar10_4_none', 'reg-drl', '2e-4', (0,)),
        ('cifar10_2_none', 'probabilistic-drl', '2e-4', (0,)),
        ('cifar10_2_none', 'reg-drl', '1e-4', (0,)),
    ]
    for i, (name, mode, lr, seeds) in enumerate(places):
        lay_codes(inputs, name, 10, 4, (5,), seeds, lr, mode, counts=(10, 40 + i))
    lay_codes(inputs / 'elsewhere', 'cifar10_2_none', 10, 4, counts=(10, 50))
    (inputs / 'elsewhere/trained_models/2e-4').rename(inputs / 'elsewhere/2e-4')
    folder = tmp_path_factory.mktemp('finished') / 'run'
    shutil.copytree(inputs, folder)
    code, printed = call(INFORMATION, folder)
    assert code == 0, printed
    return inputs, folder


@pytest.mark.parametrize('option', command_options('information'))
def test_an_option_of_information_changed_between_two_runs(option, estimated, tmp_path):
    check_change(option, INFORMATION, INFORMATION_CHANGES, estimated[1], tmp_path, estimated[0])


def test_the_matrix_is_made_of_cells(estimated, tmp_path):
    "A cell that was made alone is one of the matrix; what is there is kept, also of the study's"
    import pickle

    inputs, folder = estimated
    run = tmp_path / 'run'
    shutil.copytree(inputs, run)
    theirs = run / 'MI-Logs/cifar10_reg-drl_2_0_0_5.pkl'
    theirs.parent.mkdir()
    theirs.write_bytes(pickle.dumps({'MI': np.float32(7), 'HI': np.float32(8), 'HJ': np.float32(9)}))
    line = INFORMATION.replace('--idx 13 ', '')
    code, printed = call(line, run)
    assert code == 0 and '120 cells' in printed, printed
    cells = [
        pickle.loads(theirs.with_name(f'cifar10_reg-drl_2_0_0_{idx}.pkl').read_bytes()) for idx in range(121)
    ]
    assert (
        cells[5]['MI'] == cells[55]['MI'] == 7
        and cells[0]['MI'] == cells[3]['HI'] == 8
        and cells[60]['MI'] == 9
    )
    assert all(cells[11 * i + j]['MI'] == cells[11 * j + i]['MI'] for i in range(11) for j in range(11))
    alone = pickle.loads((folder / 'MI-Logs/cifar10_reg-drl_2_0_0_13.pkl').read_bytes())
    assert np.allclose(cells[13]['MI'], alone['MI'], atol=1e-3)
    before = files_of(run)
    code, printed = call(line, run)
    assert code == 0 and 'MI Log Exists' in printed and files_of(run) == before
