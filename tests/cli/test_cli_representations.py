"""`difflow represent` and `difflow mix` as people get them: published spellings, files, one-line errors."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
    assert len(out.strip().split('\n')) == 1 and '60 and 60 images at 5 times' in out
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
    before = (PLACE / 'training.safetensors').stat().st_mtime_ns, np.load(PLACE / 'train.npz')['codes']
    assert before[1].shape == (60, 3, 4)
    assert difflow(line)[0] == 0
    assert (np.load(PLACE / 'train.npz')['codes'] == before[1]).all()
    code, _, err = difflow(f'{line} --steps 3')
    assert code == 2 and 'steps 2 -> 3' in err
    code, _, err = difflow(line.replace('--granularity 2', '--granularity 4'))
    assert code == 2 and 'times' in err


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
    assert len(out.strip().split('\n')) == 1 and 'single' in out and '(t = 0.5/' in out
    report = json.loads((codes / 'mix.json').read_text())
    train, test = (np.load(codes / f'{split}.npz') for split in ('train', 'test'))
    options = dict(epochs=2, batch_size=20, hidden=8, lrs=(1e-2, 1e-3), seeds=2)
    for name, kind in (('single', SingleTime), ('concat', ConcatMixer)):
        mixer = kind(**options).fit(train['codes'], train['labels'])
        assert np.allclose(report['mixers'][name]['scores'], mixer.scores(test['codes'], test['labels']))
    assert np.shape(report['mixers']['single']['by_time']) == (2, 3, 2)
    assert report['mixers']['single']['best_time'][0] == 0.5 and report['settings']['times'] == [0, 0.5, 1]


def test_granularity_chooses_times(difflow, codes):
    assert difflow(f'mix --data made --mixers single --granularity 1 {BRIEF}')[0] == 0
    report = json.loads((codes / 'mix_1.json').read_text())
    assert report['settings']['codes'] == [80, 1, 4] and report['mixers']['single']['best_time'] == [0.5, 0.5]


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
        ('represent --lr 0', 'lr must be in'),
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
    assert code == 2 and 'is not a file of scores' in err
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
    assert code == 2 and 'other settings: pixels' in err
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
    assert code == 2 and 'other settings: pixels' in err


def test_a_layer_may_be_chosen(difflow):
    from difflow import load_denoiser

    line = 'represent --data digits --mode unet-digits --max-images 20 --granularity 1'
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
