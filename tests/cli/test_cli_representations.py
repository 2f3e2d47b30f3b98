"""`difflow represent` and `difflow mix` as people get them: published spellings, files, one-line errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from option_changes import call, check_change, command_options, files_of

from difflow import ConcatMixer, SingleTime, TimeEncoder, load_images, trajectory_codes, unet_features
from difflow.representations import sigma_of

DIFFLOW = Path(sys.executable).parent / 'difflow'
SMALL = (
    '--widen-factor 0.0625 --depth 10 --max-images 60 --steps 2 --batch-size 20 '
    '--patch-size 2 --channel-mult 1'
)
PLACE = Path('trained_models/0.001/reg-drl/digits_0.0625_none_0')
BRIEF = '--epochs 2 --batch-size 20 --hidden 8 --lrs 1e-2,1e-3 --seeds 2'


@pytest.fixture
def difflow(difflow_here):
    return difflow_here


@pytest.fixture
def codes(tmp_path, monkeypatch):
    "Codes of two factors at times 0, 0.5, 1 where `difflow mix --data made` looks for them"
    rng, folder = np.random.default_rng(0), tmp_path / 'trained_models/0.001/reg-drl/made_0.25_none_0'
    folder.mkdir(parents=True)
    for split, n in (('train', 80), ('test', 40)):
        labels = np.stack([rng.integers(0, 2, n), rng.integers(0, 3, n)], 1)
        z = rng.normal(0, 0.3, (n, 3, 4)).astype(np.float32)
        z[np.arange(n), 1, labels[:, 0]] += 2
        np.savez(folder / f'{split}.npz', codes=z, labels=labels, times=[0.0, 0.5, 1.0])
    return folder


def test_console_script_knows_the_commands(run, tmp_path):
    for name, words in (
        ('represent', ('--widen-factor', '--granularity', '--mode', '--aug', '--score-lr')),
        ('mix', ('--score-lr', '--epochs', '--granularity')),
    ):
        done = run(DIFFLOW, name, '--help', cwd=tmp_path, env={'COLUMNS': '200'})
        assert done.returncode == 0 and all(word in done.stdout for word in words)


def test_help_needs_no_torch(python):
    code = """if True:
        import sys
        from difflow.cli import main
        try: main(['mix', '--help'])
        except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"""
    assert python(code).strip().endswith('0 False')


def test_codes_are_those_of_the_library(difflow):
    torch.manual_seed(3)
    encoder = TimeEncoder(1 / 16, 1, depth=10).eval()
    torch.save(encoder.state_dict() | {'linear.weight': torch.zeros(10, 4)}, 'encoder_state_1.pth')
    code, out, err = difflow(
        f'represent --data digits --mode reg-drl {SMALL} --granularity 2,4 --encoder encoder_state_1.pth'
    )
    assert code == 0, err
    first, last = out.strip().split('\n')
    assert first.startswith(
        'encoder reg-drl, 4 elements a code, from encoder_state_1.pth; 5 times; train: 60'
    )
    assert '60 and 60 images at 5 times' in last
    with np.load(PLACE / 'test.npz') as file:
        images = load_images('digits', split='test', max_images=60)
        expected = trajectory_codes(encoder, images, [0.0, 0.25, 0.5, 0.75, 1.0])
        assert (
            np.allclose(file['codes'], expected, atol=1e-5)
            and file['labels'].tolist() == images.labels.tolist()
        )
        assert file['times'].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_trains_once_and_goes_on(difflow):
    line = f'represent --data digits --mode reg-drl {SMALL} --granularity 2'
    assert difflow(line)[0] == 0
    before, trained = files_of(PLACE), (PLACE / 'training.safetensors').stat().st_mtime_ns
    assert np.load(PLACE / 'train.npz')['codes'].shape == (60, 3, 4)
    (PLACE / 'train.npz').unlink()  # as if killed there
    assert difflow(line)[0] == 0
    assert files_of(PLACE) == before and (PLACE / 'training.safetensors').stat().st_mtime_ns == trained
    code, _, err = difflow(f'{line} --steps 3')
    assert code == 2 and 'steps 2 -> 3' in err
    code, _, err = difflow(line.replace('--granularity 2', '--granularity 4'))
    assert code == 2 and 'times' in err and files_of(PLACE) == before
    code, _, err = difflow(f'{line} --max-images 50')
    assert code == 2 and 'images 60 of digest' in err and '-> 50 of digest' in err
    assert difflow(f'{line} --steps 3 --restart')[0] == 0
    assert difflow(f'{line} --restart')[0] == 0
    assert files_of(PLACE) == before


def in_processes(line, world, folder, order=None):
    "Run a line in as many processes at once, which form no group to train in; return what each printed"
    processes = {}
    for rank in order or range(world):
        env = os.environ | {'RANK': str(rank), 'WORLD_SIZE': str(world), 'OMP_NUM_THREADS': '1'}
        options = dict(cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes[rank] = subprocess.Popen([DIFFLOW, *line.split()], **options)
    printed = {rank: process.communicate(timeout=600)[0] for rank, process in sorted(processes.items())}
    assert all(process.returncode == 0 for process in processes.values()), printed
    return printed


def test_processes_share_the_codes_and_one_trains(tmp_path):
    line = f'represent --data digits --mode reg-drl {SMALL} --granularity 2'
    (tmp_path / 'two').mkdir()
    printed = in_processes(line, 2, tmp_path / 'two', order=(1, 0))
    assert 'waits until rank 0 has trained' in printed[1] and 'encoder reg-drl' in printed[0]
    assert ''.join(printed.values()).count('train.npz') == 1
    (tmp_path / 'one').mkdir()
    in_processes(line, 1, tmp_path / 'one')
    assert files_of(tmp_path / 'one') == files_of(tmp_path / 'two')


def test_processes_share_the_features_of_a_unet(tmp_path):
    line = 'represent --data digits --mode unet-digits --max-images 20 --granularity 2 --batch-size 3'
    (tmp_path / 'two').mkdir()
    printed = ''.join(in_processes(line, 2, tmp_path / 'two').values())
    assert printed.count('train.npz') == printed.count('test.npz') == printed.count('model digits') == 1
    (tmp_path / 'one').mkdir()
    in_processes(line, 1, tmp_path / 'one')
    assert files_of(tmp_path / 'one') == files_of(tmp_path / 'two')


def test_sets_of_one_name_are_not_mixed(difflow):
    "The folder of a run bears the name of the data, not its place"
    pictures(Path('here/set/train'), 'ab', 4), pictures(Path('here/set/test'), 'ab', 2)
    pictures(Path('there/set/train'), 'ab', 4, seed=1), pictures(Path('there/set/test'), 'ab', 2, seed=1)
    line = f'represent --mode reg-drl {SMALL} --granularity 1'
    assert difflow(f'{line} --data here/set')[0] == 0
    before = files_of(Path('trained_models'))
    code, _, err = difflow(f'{line} --data there/set')
    assert code == 2 and 'is of another run: images 8 of digest' in err and '--root' in err
    assert files_of(Path('trained_models')) == before
    shutil.copytree('here/set', 'copy/set')
    assert difflow(f'{line} --data copy/set')[0] == 0 and files_of(Path('trained_models')) == before


@pytest.mark.parametrize('mode', ['vae-bce', 'noreg-drl'])
def test_other_modes_train(mode, difflow):
    assert difflow(f'represent --data digits --mode {mode} {SMALL} --granularity 1')[0] == 0
    with np.load(
        f'trained_models/0.001/{mode}/digits_0.0625_none_0/train.npz'
    ) as file:  # one time, 0.5, as published
        assert file['codes'].shape == (60, 1, 4) and file['times'].tolist() == [0.5]


def test_features_of_a_unet(difflow):
    from difflow import load_denoiser

    assert difflow('represent --data digits --mode unet-digits --max-images 20 --granularity 2')[0] == 0
    with np.load('trained_models/0.001/unet-digits/digits_0.25_none_0/test.npz') as file:
        images = load_images('digits', split='test', max_images=20)
        expected = unet_features(load_denoiser('digits'), images, sigma_of([0.0, 0.5, 1.0]).tolist())
        assert np.allclose(file['codes'], expected, atol=1e-4) and len(file['labels']) == 20


def test_scores_are_those_of_the_library(difflow, codes):
    code, out, err = difflow(f'mix --data made --mixers single,concat {BRIEF}')
    assert code == 0, err
    first, last = out.strip().split('\n')
    assert first.endswith('80 to train on and 40 to score, 4 elements at 3 times; read-outs single, concat')
    assert 'single' in last and '(t = 0.5/' in last
    report = json.loads((codes / 'mix.json').read_text())
    train, test = (np.load(codes / f'{split}.npz') for split in ('train', 'test'))
    options = dict(epochs=2, batch_size=20, hidden=8, lrs=(1e-2, 1e-3), seeds=2)
    for name, kind in (('single', SingleTime), ('concat', ConcatMixer)):
        mixer = kind(**options).fit(train['codes'], train['labels'])
        assert np.allclose(report['mixers'][name]['scores'], mixer.scores(test['codes'], test['labels']))
    assert np.shape(report['mixers']['single']['by_time']) == (2, 3, 2)
    assert report['mixers']['single']['best_time'][0] == 0.5 and report['run']['times'] == [0, 0.5, 1]


def test_granularity_chooses_times(difflow, codes):
    assert difflow(f'mix --data made --mixers single --granularity 1 {BRIEF}')[0] == 0
    report = json.loads((codes / 'mix_1.json').read_text())
    assert report['run']['codes'] == [80, 1, 4] and report['mixers']['single']['best_time'] == [0.5, 0.5]


def test_finished_mixers_are_kept(difflow, codes, monkeypatch):
    assert difflow(f'mix --data made --mixers mean {BRIEF}')[0] == 0
    import difflow.cli.mixers as module

    done, real = [], module._mixer_scores
    monkeypatch.setattr(
        module, '_mixer_scores', lambda mixer, *rest: done.append(type(mixer).__name__) or real(mixer, *rest)
    )
    assert difflow(f'mix --data made --mixers mean,concat {BRIEF}')[0] == 0
    assert done == ['ConcatMixer']
    assert list(json.loads((codes / 'mix.json').read_text())['mixers']) == ['mean', 'concat']
    grown = (codes / 'mix.json').read_bytes()
    _, out, _ = difflow(f'mix --data made --mixers concat {BRIEF}')
    assert '1 read-outs from before' in out and (codes / 'mix.json').read_bytes() == grown
    assert difflow(f'mix --data made --mixers concat,mean --restart {BRIEF}')[0] == 0
    assert (codes / 'mix.json').read_bytes() == grown and done == ['ConcatMixer'] * 2 + ['MeanMixer']
    code, _, err = difflow(f'mix --data made --mixers mean {BRIEF} --standardise')
    assert (
        code == 2
        and 'standardise False -> True' in err
        and sorted(p.name for p in codes.iterdir()) == ['mix.json', 'test.npz', 'train.npz']
    )


@pytest.mark.parametrize(
    'line, message',
    [
        ('represent --mode drl', '--mode drl: known are reg-drl'),
        ('represent --granularity 0', "--granularity '0': integers >= 1"),
        ('represent --granularity 5,x', 'integers >= 1'),
        ('represent --aug simclr', '--aug simclr: only none'),
        ('represent --widen-factor 0.01', 'k must be 0 or at least 1/16'),
        ('represent --depth 11', 'depth must be 10'),
        ('represent --mode unet-nowhere', "'nowhere' is neither"),
        ('represent --steps 0', "'--steps'"),
        ('represent --lr 0', "--lr '0': a number > 0"),
        ('represent --channel-mult wide', "--channel-mult 'wide': not integers"),
        ('mix', 'train.npz is missing: difflow represent makes it'),
        ('mix --mixers single,lstm', "--mixers 'lstm': known are single"),
        ('mix --out scores.csv', 'scores.csv: the name must end in .json'),
        ('mix --epochs 0', "'--epochs'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(line, message, difflow):
    code, out, err = difflow(line)
    assert code == 2 and message in err and len(err.strip().split('\n')) == 1
    assert list(Path().iterdir()) == []


def test_broken_files_are_refused(difflow, codes):
    code, _, err = difflow('mix --data made --granularity 3')
    assert code == 2 and 'has no codes at the time 0.3333' in err
    (codes / 'mix.json').write_text('{')
    code, _, err = difflow(f'mix --data made --mixers mean {BRIEF}')
    assert code == 2 and 'does not state which run it is of' in err
    (codes / 'test.npz').write_bytes(b'PK')
    code, _, err = difflow('mix --data made')
    assert code == 2 and 'is not a file of codes with labels' in err
    np.savez(codes / 'test.npz', codes=np.zeros((4, 3, 4), np.float32), times=[0.0, 0.5, 1.0])
    assert 'is not a file of codes with labels' in difflow('mix --data made')[2]


def pictures(folder, classes, count, side=8, seed=0):
    "A folder of classes with `count` random colour pictures each"
    from PIL import Image

    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                folder / name / f'{i}.png'
            )


def test_a_folder_with_both_parts_keeps_them(difflow):
    "Labels are the classes inside, and no picture moves from one part to the other"
    pictures(Path('set/train'), 'ab', 8)
    pictures(Path('set/test'), 'ab', 3, seed=1)
    code, out, err = difflow(f'represent --data set --mode reg-drl {SMALL} --granularity 1')
    assert code == 0 and '16 and 6 images' in out, err
    with np.load('trained_models/0.001/reg-drl/set_0.0625_none_0/test.npz') as file:
        assert file['labels'].tolist() == [0, 0, 0, 1, 1, 1]
    pictures(Path('odd/train'), 'ab', 2)
    pictures(Path('odd/test'), 'ac', 2)
    code, _, err = difflow(f'represent --data odd {SMALL}')
    assert code == 2 and "other classes, ['a', 'b'] and ['a', 'c']" in err


def test_published_transform_reaches_the_encoder(difflow):
    from difflow.data import published_images

    pictures(Path('cifar10/train'), 'ab', 3, 32)
    pictures(Path('cifar10/test'), 'ab', 2, 32, seed=1)
    torch.manual_seed(0)
    encoder = TimeEncoder(1 / 16, 3, depth=10).eval()
    torch.save(encoder.state_dict(), 'encoder_state_1.pth')
    line = f'represent --data cifar10 --mode reg-drl {SMALL} --granularity 1 --encoder encoder_state_1.pth'
    assert difflow(f'{line} --transform cifar10')[0] == 0
    images = published_images(load_images('cifar10/test'), 'cifar10')
    with np.load('trained_models/0.001/reg-drl/cifar10_0.0625_none_0/test.npz') as file:
        assert np.allclose(file['codes'], trajectory_codes(encoder, images, [0.5]), atol=1e-5)
        assert file['labels'].tolist() == [0, 0, 1, 1]
    code, _, err = difflow(line)  # raw pixels, where the codes are of transformed ones
    assert code == 2 and 'of another run: images ' in err
    for wrong, message in (
        ('--transform imagenet', "got 'imagenet'"),
        ('--transform cifar10 --mode unet-digits', '--transform is for encoders'),
        ('--layer middle_block', '--layer is for --mode unet-NAME'),
        ('--transform cifar10 --size 16', 'cifar10 has colour images'),
    ):
        code, _, err = difflow(f'{line} --root other {wrong}')
        assert code == 2 and message in err, err


def test_other_images_are_not_taken_for_those_before(difflow):
    line = f'represent --data mnist5k --mode reg-drl {SMALL} --granularity 1'
    torch.manual_seed(0)
    torch.save(TimeEncoder(1 / 16, 1, depth=10).state_dict(), 'e.pth')
    assert difflow(f'{line} --encoder e.pth --size 8')[0] == 0
    code, _, err = difflow(f'{line} --encoder e.pth --size 16')
    assert code == 2 and 'of another run: images ' in err


def test_a_layer_may_be_chosen(difflow):
    from difflow import load_denoiser

    line = 'represent --data digits --mode unet-digits --max-images 20 --granularity 1'
    assert difflow(f'{line} --layer time_embed')[0] == 2 and not Path('trained_models').exists()
    assert difflow(f'{line} --layer input_blocks.1')[0] == 0
    with np.load('trained_models/0.001/unet-digits/digits_0.25_none_0/test.npz') as file:
        images = load_images('digits', split='test', max_images=20)
        assert np.allclose(
            file['codes'],
            unet_features(load_denoiser('digits'), images, [sigma_of(0.5).item()], 'input_blocks.1'),
            atol=1e-4,
        )
    code, _, err = difflow(f'{line} --layer time_embed')
    assert code == 2 and "'time_embed' gives no code" in err


def test_torchvision_sets_are_told_where_they_lie(difflow):
    code, _, err = difflow(f'represent --data CIFAR10 {SMALL} --data-root nowhere')
    assert code == 2 and 'Dataset not found' in err and 'root=' not in err


def test_scores_of_other_codes_are_not_kept(difflow, codes):
    assert difflow(f'mix --data made --mixers mean {BRIEF}')[0] == 0
    with np.load(codes / 'test.npz') as file:
        arrays = dict(file)
    np.savez(codes / 'test.npz', **arrays | {'codes': -arrays['codes']})
    code, _, err = difflow(f'mix --data made --mixers mean {BRIEF}')
    assert code == 2 and 'digest' in err


def test_linear_probes_are_of_those_that_have_them(difflow, codes):
    code, _, err = difflow('mix --data made --hidden 0')
    assert (
        code == 2
        and '--mixers gru: hidden must be an integer >= 1' in err
        and not (codes / 'mix.json').exists()
    )
    assert (
        difflow(f'mix --data made --mixers single,mean,concat {BRIEF.replace("--hidden 8", "--hidden 0")}')[0]
        == 0
    )


REPRESENT = f'represent --data set --mode reg-drl {SMALL} --granularity 2'
REPRESENT_CHANGES = dict(
    data=('other', 'images'),
    mode='vae-bce',
    widen_factor='0.125',
    aug='none',
    seed='1',
    lr='0.01',
    granularity=('4', 'times'),
    encoder='encoder_state_1.pth',
    transform='cifar10',
    data_root=None,  # of torchvision sets alone
    layer='--mode unet-net.safetensors --layer out',
    size=('16', 'images'),
    max_images=('6', 'images'),
    steps='3',
    batch_size='10',
    depth='16',
    model_channels='64',
    channel_mult='1,1',
    patch_size='4',
    root='elsewhere',
    restart='',
    device='cpu',
    mixup=None,  # of the sets of the study alone, in test_cli_encoders.py
    as_published='',  # the data that are named count
)
UNET = 'represent --data set --mode unet-net.safetensors --batch-size 5 --max-images 8 --granularity 2'
UNET_CHANGES = dict(
    data='other',
    mode='unet-other.safetensors',
    widen_factor='1',
    seed='1',
    granularity=('4', 'times'),
    layer='out',
    max_images=('6', 'images'),
    batch_size='4',
    restart='',
)


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    "A folder with two sets of colour images, an encoder, and two denoisers"
    from difflow import EDMDenoiser, UNet, save

    folder = tmp_path_factory.mktemp('inputs')
    for seed, name in enumerate(('set', 'other')):
        pictures(folder / name / 'train', 'ab', 5, 32, seed=2 * seed)
        pictures(folder / name / 'test', 'ab', 4, 32, seed=2 * seed + 1)
        torch.manual_seed(seed)
        net = EDMDenoiser(UNet(32, 3, 32, 3, 1, (), (1, 1)))
        save(net, folder / ('net.safetensors' if name == 'set' else 'other.safetensors'))
    torch.save(TimeEncoder(1 / 16, 3, depth=10).state_dict(), folder / 'encoder_state_1.pth')
    return folder


@pytest.fixture(scope='module')
def finished(inputs, tmp_path_factory):
    "Folders in which the lines have run, by line"
    folders = {}
    for line in (REPRESENT, UNET):
        folders[line] = tmp_path_factory.mktemp('finished') / 'run'
        shutil.copytree(inputs, folders[line])
        assert call(line, folders[line])[0] == 0
    return folders


@pytest.mark.parametrize('option', command_options('represent'))
def test_an_option_changed_between_two_runs(option, inputs, finished, tmp_path):
    check_change(option, REPRESENT, REPRESENT_CHANGES, finished[REPRESENT], tmp_path, inputs)


@pytest.mark.parametrize('option', UNET_CHANGES)
def test_an_option_changed_between_two_runs_of_a_unet(option, inputs, finished, tmp_path):
    check_change(option, UNET, UNET_CHANGES, finished[UNET], tmp_path, inputs)


MIX = f'mix --data made --mixers mean,concat {BRIEF}'
MIX_CHANGES = dict(
    data='other',
    mode='vae-l2',
    widen_factor='0.5',
    aug='simclr',
    mixup='',
    seed='1',
    score_lr='0.01',
    lr='0.01',
    granularity='2',
    mixers='mean,concat,single',
    epochs='3',
    batch_size='10',
    seeds='3',
    lrs='1e-2',
    hidden='4',
    standardise='',
    root='elsewhere',
    out='scores.json',
    restart='',
    device='cpu',
    mask=None,  # these ask for other files: test_cli_ablations.py
    feat=None,
    down_lr=None,
    score_seeds=None,
    perf=None,
)


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    "A folder with codes wherever an option may look for them, and one in which the line has run"
    inputs, rng = tmp_path_factory.mktemp('codes'), np.random.default_rng(0)
    for place in (
        'trained_models/0.001/reg-drl/made_0.25_none_0',
        'trained_models/0.001/reg-drl/other_0.25_none_0',
        'trained_models/0.001/vae-l2/made_0.25_none_0',
        'trained_models/0.001/reg-drl/made_0.5_none_0',
        'trained_models/0.001/reg-drl/made_0.25_none_1',
        'trained_models/0.001/reg-drl/made_0.25_simclr_0',
        'trained_models/0.001/reg-drl/made_0.25_none_mixup_0',
        'trained_models/0.01/reg-drl/made_0.25_none_0',
        'elsewhere/0.001/reg-drl/made_0.25_none_0',
    ):
        (inputs / place).mkdir(parents=True)
        for split in ('train', 'test'):
            z, labels = rng.normal(0, 1, (40, 3, 4)).astype(np.float32), rng.integers(0, 2, 40)
            np.savez(inputs / place / f'{split}.npz', codes=z, labels=labels, times=[0.0, 0.5, 1.0])
    folder = tmp_path_factory.mktemp('finished') / 'run'
    shutil.copytree(inputs, folder)
    assert call(MIX, folder)[0] == 0
    return inputs, folder


@pytest.mark.parametrize('option', command_options('mix'))
def test_an_option_of_mix_changed_between_two_runs(option, mixed, tmp_path):
    inputs, folder = mixed
    check_change(option, MIX, MIX_CHANGES, folder, tmp_path, inputs)


def test_an_option_of_mix_changed_between_two_runs_into_one_file(mixed, tmp_path):
    "With --out the file does not lie beside the codes: other codes are refused by what is in them"
    inputs, folder = mixed
    run = tmp_path / 'run'
    shutil.copytree(inputs, run)
    line = f'{MIX} --out scores.json'
    assert call(line, run)[0] == 0
    before = files_of(run)
    for other in ('--data other', '--mode vae-l2', '--seed 1', '--lr 0.01', '--root elsewhere'):
        code, printed = call(f'{line} {other}', run)
        assert code == 2 and 'is of another run: digest ' in printed and files_of(run) == before


def test_processes_share_the_read_outs(mixed, tmp_path):
    inputs, _ = mixed
    shutil.copytree(inputs, tmp_path / 'two')
    printed = ''.join(in_processes(MIX, 2, tmp_path / 'two').values())
    assert printed.count('codes in') == printed.count('right in %') == 1
    shutil.copytree(inputs, tmp_path / 'one')
    in_processes(MIX, 1, tmp_path / 'one')
    assert files_of(tmp_path / 'two') == files_of(tmp_path / 'one')
