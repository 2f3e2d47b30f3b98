"""The commands that measure what changes in a classifier: by two processes as by one, killed, and changed"""

import argparse
import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from option_changes import call, check_change, command_options, files_of

from difflow import load_images
from difflow.data import save_images
from difflow.features import (
    ActivationStatistics,
    LayerHooks,
    activation_statistics,
    load_classifier,
    save_classifier,
)
from difflow.sweeps import LayerChange, activation_change, pair_images

MODEL = '--classifier_name mnist5k'
STATISTICS = f'classifier-statistics {MODEL} --data_dir mnist5k --split test --num_samples 8'
EVALUATION = f'evaluate-classifier {MODEL} --starting_data_dir mnist5k --split test'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Images that came back from two levels, twice; another classifier; and statistics of both"
    data = tmp_path_factory.mktemp('data')
    for part in ('test', 'train'):
        digits = load_images('mnist5k', split=part)[:6]
        for name, shift in (('back', 0), ('other', 0.1)):
            for r in (10, 20):
                worse = (digits.tensor() + 1) * (1 - r / 40) + shift - 1
                save_images(worse, data / name, [f'{n}_t{50 * r:04d}' for n in digits.names])
    other = load_classifier('mnist5k')
    other.heads['digit'].bias += 0.01
    save_classifier(other, data / 'else/mnist5k.safetensors')
    for line in (
        f'{STATISTICS} --output s.npz',
        f'{STATISTICS} --seed 1 --output other.npz',
        f'{STATISTICS} --classifier_name else/mnist5k.safetensors --output else/s.npz',
        f'{STATISTICS} --classifier_use_fp16 True --output half.npz',
    ):
        assert call(line, data)[0] == 0
    return data


@pytest.fixture(scope='module')
def lines(data):
    "What each command is tested with"
    return {
        'classifier-statistics': f'{STATISTICS} --batch-size 3 --output s.npz --pickle s.pk',
        'evaluate-classifier': f'{EVALUATION} --data_dir {data}/back --statistics {data}/s.npz '
        '--batch-size 7 --timestep_respacing 20 --picture c.png --pickles published --output change.npz',
    }


@pytest.fixture(scope='module')
def bases(lines, tmp_path_factory):
    "Folders in which these lines have run, with what they printed"
    folders = {command: tmp_path_factory.mktemp(command) for command in lines}
    return {command: (folder, *call(lines[command], folder)) for command, folder in folders.items()}


CHANGES = {
    'classifier-statistics': {
        'classifier_name': ('DATA/else/mnist5k.safetensors', 'classifier'),
        'data_dir': ('digits --image-size 28', 'images'),
        'split': ('train', 'images'),
        'num_samples': '6',
        'first': ('', 'images'),
        'layers': 'stem',
        'second_moment': '',
        'weights': 'none',  # an embedded classifier has its own
        'image_size': '28',  # as it is
        'classifier_use_fp16': ('', 'classifier'),
        'truncate': '',  # of a classifier of torchvision alone: below
        'batch_size': '4',
        'seed': '1',
        'output': 'b.npz',
        'layout': 'flat',  # as it is
        'pickle': 'b.pk',
        'as_published': None,  # a folder: below
        'device': 'cpu',
        'restart': '',
    },
    'evaluate-classifier': {
        'starting_data_dir': ('DATA/back --data_dir DATA/twice', 'images'),
        'data_dir': ('DATA/other', 'returned'),
        'classifier_name': (
            '--classifier_name DATA/else/mnist5k.safetensors --statistics DATA/else/s.npz',
            'classifier',
        ),
        'statistics': 'DATA/other.npz',
        'second_moment': ('', 'statistics'),
        'time_series': ('20', 'levels'),
        'timestep_respacing': ('10', 'levels'),
        'split': ('train', 'images'),
        'weights': 'none',
        'image_size': '28',
        'classifier_use_fp16': (
            '--classifier_use_fp16 True --statistics DATA/half.npz',
            'classifier',
        ),
        'truncate': '',  # of a classifier of torchvision alone: below
        'batch_size': '4',
        'seed': '1',
        'output': 'b.npz',
        'layout': 'flat',
        'picture': 'b.png',
        'pickles': 'elsewhere',
        'as_published': None,
        'device': 'cpu',
        'restart': '',
    },
}


@pytest.mark.parametrize(
    'command, option', [(command, option) for command in CHANGES for option in command_options(command)]
)
def test_every_option_changed_between_two_runs(command, option, data, lines, bases, tmp_path):
    if option == 'starting_data_dir' and not (data / 'twice').exists():
        back = load_images(data / 'back')
        names = [f'{name.removesuffix(".png")}_t1000' for name in back.names]
        save_images(back.tensor(), data / 'twice', names)
    at = lambda change: (  # noqa: E731
        change
        if change is None
        else change.replace('DATA', f'{data}')
        if isinstance(change, str)
        else (change[0].replace('DATA', f'{data}'), change[1])
    )
    base, code, printed = bases[command]
    assert code == 0, printed
    changes = {name: at(change) for name, change in CHANGES[command].items()}
    check_change(option, lines[command], changes, base, tmp_path)


@pytest.mark.parametrize('command, step', [('classifier-statistics', 2), ('evaluate-classifier', 4)])
def test_killed_at_any_moment_and_shared(command, step, lines, run, root, tmp_path):
    "By two processes at once, too, of which one is killed"
    script = root / 'tests/cli/moments.py'
    done = run(sys.executable, script, lines[command], tmp_path, step, env={'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 6


def test_the_first_line_says_what_is_used_and_the_last_what_was_found(bases, data):
    first, last = (bases['classifier-statistics'][2].strip().split('\n')[i] for i in (0, -1))
    assert first.startswith('classifier mnist5k: SmallClassifier; 8 drawn from 1000')
    assert re.fullmatch(r'8 layers over 8 images, accuracy .*, [\d.]+ s: s.npz, s.pk', last)
    first, last = (bases['evaluate-classifier'][2].strip().split('\n')[i] for i in (0, -1))
    assert 'came back from step_reverse 10, 20 of 20 in' in first
    assert re.fullmatch(r'6 images, same class at 10: \d\.\d\d, 20: \d\.\d\d, .*published', last)


def test_files_are_what_the_library_says(bases, data):
    "Bit by bit: the batches are those of one process"
    model, digits = load_classifier('mnist5k'), load_images('mnist5k', split='test')
    alone = activation_statistics(model, digits, max_images=8, batch_size=3)
    stored = ActivationStatistics.load(bases['classifier-statistics'][0] / 's.npz')
    for name, moments in alone.moments.items():
        assert torch.equal(stored.moments[name].mean, moments.mean)
        assert torch.equal(stored.moments[name].m2, moments.m2)
    assert (stored.images, stored.correct, stored.correct_top5) == (8, alone.correct, alone.correct_top5)
    change = LayerChange.load(bases['evaluate-classifier'][0] / 'change.npz')
    start, levels, back = pair_images(digits, load_images(data / 'back', 28, 1), 20)
    scales = ActivationStatistics.load(data / 's.npz')
    expected = activation_change(model, start, back, scales, levels, batch_size=7)
    assert change.levels == [10, 20] and change.names == expected.names
    for name in ('L2', 'L2_normalized', 'cosine', 'shuffled', 'partner', 'labels'):
        np.testing.assert_array_equal(getattr(change, name), getattr(expected, name))
    np.testing.assert_array_equal(change.logits['class'], expected.logits['class'])
    assert len(list((bases['evaluate-classifier'][0] / 'published').iterdir())) == 4


def test_a_network_of_torchvision_is_known_by_its_weights_and_its_images(data, tmp_path):
    model = load_classifier('squeezenet1_1', None)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    line = (
        'classifier-statistics --classifier_name squeezenet1_1 --weights none --layers classifier '
        f'--data_dir {data}/back --image-size 28 --num_samples 2'
    )
    assert call(line, tmp_path)[0] == 0
    before = files_of(tmp_path)
    assert call(line, tmp_path)[0] == 0  # random weights are always the same
    for more, named in (
        ('--weights weights.pth', 'classifier'),
        ('--truncate', 'classifier'),
        ('--image-size 24', 'images'),
    ):
        code, printed = call(f'{line} {more}', tmp_path)
        assert code == 2 and f'is of another run: {named} ' in printed, printed
    assert files_of(tmp_path) == before


def test_statistics_of_a_classifier_of_the_same_name_are_refused(data, tmp_path):
    assert call(STATISTICS, tmp_path)[0] == 0
    other = f'--classifier_name {data}/else/mnist5k.safetensors'
    code, printed = call(f'{STATISTICS} {other}', tmp_path)
    message = 'classifier_statistics/mnist5k/act_stat_mnist5k.npz is of another run: classifier '
    assert code == 2 and message in printed and '--restart' in printed
    before = files_of(tmp_path)
    code, printed = call(f'{EVALUATION} --data_dir {data}/back --timestep_respacing 20 {other}', tmp_path)
    assert code == 2 and 'the statistics are of another classifier' in printed
    assert files_of(tmp_path) == before


def test_what_leaves_is_of_use_for_training(data):
    model, digits = load_classifier('mnist5k'), load_images('mnist5k', split='test')[:6]
    statistics = activation_statistics(model, digits)
    for moments in statistics.moments.values():
        assert not moments.mean.is_inference() and not moments.m2.is_inference()
    for pair in statistics.scaling().values():
        assert not any(t.is_inference() for t in pair)


def test_manifest_tells_steps_and_noise_levels(tmp_path):
    from difflow.cli.classifiers import _manifest_of

    assert _manifest_of(tmp_path) == (250, {}) and _manifest_of(tmp_path / 'none') == (250, {})
    rows = [
        dict(file='a', steps=20, step_reverse=5, sigma=0.5),
        dict(file='b', steps=20, step_reverse=20, sigma=None),
    ]
    (tmp_path / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert _manifest_of(tmp_path) == (20, {5: 0.5, 20: float('inf')})


def plain_pickle(file):
    return pickle.loads(file.read_bytes())


def test_as_published_writes_what_the_scripts_write(data, tmp_path):
    "Folders, names, types and numbers of the published files, read with pickle alone"
    digits, model = load_images('mnist5k', split='test'), load_classifier('mnist5k')
    line = 'classifier-statistics --classifier_name mnist5k --data_dir mnist5k --split test --num_samples 5'
    code, printed = call(f'{line} --batch_size 2 --as-published', tmp_path)
    assert code == 0 and 'the first 6 of 1000' in printed, printed  # three whole batches
    folder = tmp_path / 'classifier_statistics/mnist5k'
    stored, x = plain_pickle(folder / 'act_stat_mnist5k.pk'), digits[:6].tensor()
    seen = {}
    with LayerHooks(model, model.layers, seen.__setitem__) as hooked:
        right = hooked(x)['class'].argmax(1) == digits.labels[:6]
    assert stored['accuracy'] == pytest.approx(100 * right.float().mean().item())
    assert stored['args'].num_samples == 6 and stored['args'].classifier_name == 'mnist5k'
    for name, a in seen.items():
        dims = {4: (0, 2, 3), 2: (0, 1)}[a.ndim]
        mean, square = stored['activations_mean'][name], stored['activations_var'][name]
        np.testing.assert_allclose(mean, a.mean(dims, keepdim=True), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(square, (a**2).mean(dims, keepdim=True), rtol=1e-4)
        assert mean.dtype == square.dtype == np.float32
        assert stored['activations_size'][name] == a.numel() // mean.size
    assert 'Accuracy: ' in (folder / 'log.txt').read_text()
    assert (folder / 'progress.csv').read_bytes() == b''
    before = files_of(tmp_path)
    assert call(f'{line} --batch_size 2 --as-published', tmp_path)[0] == 0 and files_of(tmp_path) == before


def test_the_scripts_own_statistics_and_folders_are_evaluated(data, tmp_path):
    "Without any file of ours: t_{r}_{T}_images, another T beside it, and the pickle of the script"
    digits, model = load_images('mnist5k', split='test')[:6], load_classifier('mnist5k')
    for r, steps in ((10, 20), (20, 20), (10, 40)):
        tag = int(r * (1000 / steps))
        names = [f't_{r}_{steps}_images/{Path(n).stem}_t{tag:04d}' for n in digits.names]
        save_images(digits.tensor() * (1 - r / steps), tmp_path / 'results', names)
    moments = activation_statistics(model, digits).moments
    arrays = lambda kind: {n: np.asarray(getattr(m, kind), np.float32) for n, m in moments.items()}  # noqa: E731
    content = dict(
        args=argparse.Namespace(classifier_name='mnist5k', num_samples=6),
        accuracy=100.0,
        accuracy_top5=100.0,
        activations_mean=arrays('mean'),
        activations_var=arrays('second_moment'),
        activations_size={name: m.count for name, m in moments.items()},
    )
    folder = tmp_path / 'classifier_statistics/mnist5k'
    folder.mkdir(parents=True)
    content['args'].classifier_name = 'colored_mnist'
    (folder / 'act_stat_mnist5k.pk').write_bytes(pickle.dumps(content))
    code, printed = call(f'{EVALUATION} --data_dir results --timestep_respacing 20', tmp_path)
    assert code == 2 and 'act_stat_mnist5k.pk is of classifier colored_mnist, not of mnist5k' in printed
    content['args'].classifier_name = 'mnist5k'
    (folder / 'act_stat_mnist5k.pk').write_bytes(pickle.dumps(content))
    line = f'{EVALUATION} --data_dir results --timestep_respacing 20 --batch_size 2'
    code, printed = call(f'{line} --time_series 10 20', tmp_path)
    assert code == 0 and 'act_stat_mnist5k.pk' in printed and '3 at once' in printed, printed
    seen = {'start': {}, 'sample': {}}
    for which, x in (('start', digits), ('sample', load_images(tmp_path / 'results/t_10_20_images', 28, 1))):
        with LayerHooks(model, model.layers, seen[which].__setitem__) as hooked:
            seen[which]['logits'] = hooked(x.tensor())['class']
    logits = plain_pickle(folder / 'logits_mnist5k-t_10_20.pk')
    for which in ('start', 'sample'):
        np.testing.assert_allclose(logits[f'logits_{which}'], seen[which].pop('logits'), atol=1e-4)
    change = plain_pickle(folder / 'act_diff_mnist5k-t_10_20.pk')
    assert list(change) == model.layers
    for name in model.layers:  # as the published script computes
        a, b = (
            ((seen[which][name] - moments[name].mean) / (moments[name].second_moment + 1e-8).sqrt())
            .flatten(1)
            .float()
            for which in ('sample', 'start')
        )
        square, norms = (a - b).norm(dim=1) ** 2, a.norm(dim=1) * b.norm(dim=1)
        for key, expected in (
            ('L2', square),
            ('L2_normalized', square / norms),
            ('cosine', torch.cosine_similarity(a, b)),
        ):
            np.testing.assert_allclose(change[name][key], expected, rtol=1e-3, atol=1e-5)
            assert change[name][key].dtype == np.float32
    assert (folder / 'act_diff_mnist5k-t_20_20.pk').exists() and (folder / 'progress.csv').exists()
    code, printed = call(f'{line} --as-published', tmp_path)
    assert code == 2 and 'step_reverse 25 is not there: found are [10, 20]' in printed
    code, printed = call(f'{line} --time_series 10 --as-published --batch_size 3', tmp_path)
    assert code == 0 and 'step_reverse 10 of 20' in printed, printed


def test_a_place_is_a_folder_or_an_npz(data, tmp_path):
    for more, message in (
        ('--output a.csv', 'a.csv: the name must end in .npz'),
        ('--output a.npz --layout published', '--layout published writes a folder, not a.npz'),
        ('--layout deep', "--layout 'deep': allowed are flat, published"),
        ('--output a --layout flat', 'a: the name must end in .npz'),
    ):
        code, printed = call(f'{STATISTICS} {more}', tmp_path)
        assert code == 2 and message in printed and not files_of(tmp_path), printed
    assert call(f'{STATISTICS} --layout flat', tmp_path)[0] == 0
    assert list(files_of(tmp_path)) == ['classifier_statistics/mnist5k.npz']
    code, printed = call(f'{EVALUATION} --data_dir {data}/back --timestep_respacing 20', tmp_path)
    assert code == 0 and 'statistics classifier_statistics/mnist5k.npz' in printed


def test_half_precision_is_close_and_said(data, tmp_path):
    assert call(f'{STATISTICS} --output s.npz', tmp_path)[0] == 0
    code, printed = call(f'{STATISTICS} --output h.npz --classifier_use_fp16 True', tmp_path)
    assert code == 0 and 'SmallClassifier, half precision;' in printed
    single, half = (ActivationStatistics.load(tmp_path / f'{name}.npz') for name in 'sh')
    assert half.correct == single.correct
    for name, m in single.moments.items():
        assert 0 < (m.mean - half.moments[name].mean).abs().max() < 0.02 * m.second_moment.max().sqrt()
