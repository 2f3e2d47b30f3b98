"""`difflow cas` as people get it: its files, what it measures, and errors in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from option_changes import call, check_change, command_options, files_of
from PIL import Image
from safetensors.torch import load_file

from difflow import ImageSet, classification_accuracy_score, load_images
from difflow.data import save_images
from difflow.features import load_classifier
from difflow.synthetic_data import CAS, ClassifierRecipe

DIFFLOW = Path(sys.executable).parent / 'difflow'
SMALL = '--epochs 4 --seeds 1 --batch-size 16 --augmentation none'


def squares(n, seed=0):
    "Dark and bright squares"
    labels = torch.arange(n) % 2
    noise = torch.randint(0, 50, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return ImageSet((labels[:, None, None, None] * 150 + noise).to(torch.uint8), labels)


def write(path, images, labels=True):
    "Write the npz of the published sampling script"
    arrays = dict(arr_0=images.images.permute(0, 2, 3, 1).numpy())
    np.savez(path, **arrays | (dict(arr_1=images.labels.numpy()) if labels else {}))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Two folders of real images and two npz files of synthetic ones"
    folder = tmp_path_factory.mktemp('sets')
    for name, seed, n in (('train', 0, 40), ('test', 1, 60), ('other', 5, 40)):
        for k, kind in enumerate(('dark', 'light')):
            save_images(squares(n, seed)[k::2], folder / name / kind)
    write(folder / 'made.npz', squares(48, 2))
    write(folder / 'more.npz', squares(48, 3))
    write(folder / 'plain.npz', squares(48, 2), labels=False)
    save_images(squares(20)[::2], folder / 'one' / 'dark')
    return folder


@pytest.fixture
def difflow(folder, difflow_here):
    "Run a line in this process, where DIR stands for `folder`"
    return lambda line: difflow_here(line.replace('DIR', str(folder)))


def test_console_script_knows_the_command(run, tmp_path):
    done = run(DIFFLOW, 'cas', '--help', cwd=tmp_path, env={'COLUMNS': '200'})
    assert done.returncode == 0
    for name in (
        '--real',
        '--synthetic',
        '--test',
        '--protocol',
        '--seeds',
        '--classifier',
        '--metric',
        '--counts',
        '--out',
    ):
        assert name in done.stdout


def test_help_needs_no_torch(python):
    code = """if True:
        import sys
        from difflow.cli import main
        try: main(['cas', '--help'])
        except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"""
    assert python(code).strip().endswith('0 False')


def test_table_is_what_the_library_says(difflow, folder):
    code, out, err = difflow(
        'cas --real DIR/train --test DIR/test --synthetic DIR/made.npz --counts 20 '
        f'{SMALL} --seed 3 --out runs/a.npz'
    )
    assert code == 0, err
    assert 'real + synthetic' in out and out.strip().split('\n')[-1].endswith('runs/a.npz, runs/a.png')
    expected = classification_accuracy_score(
        load_images(folder / 'train'),
        folder / 'made.npz',
        load_images(folder / 'test'),
        [20],
        epochs=4,
        seeds=[3],
        batch_size=16,
        augmentation='none',
    )
    file = np.load('runs/a.npz')
    assert file['arms'].tolist() == expected.arms and file['sizes'].tolist() == [40, 48, 88, 20]
    assert (file['answers'] == expected.answers.numpy()).all() and (
        file['steps'] == expected.steps.numpy()
    ).all()
    assert file['mean'][1, 0] == expected.estimate('steps', 'real')[0] and file['seeds'].tolist() == [3]
    assert json.loads(str(file['run']))['epochs'] == 4 and file['classes'].tolist() == ['dark', 'light']
    assert Image.open('runs/a.png').size == (1320, 480)
    assert sorted(p.name for p in Path('runs').iterdir()) == ['a.classifiers', 'a.npz', 'a.png']


def test_one_protocol_auroc_and_the_test_part_of_a_built_in_set(difflow):
    made = load_images('digits', max_images=60)
    write('made.npz', made)
    code, out, err = difflow(
        'cas --real digits --max-real 50 --synthetic made.npz --protocol steps --steps 3 --metric auroc '
        f'{SMALL}'
    )
    assert code == 0, err
    file = np.load('cas.npz')
    assert (
        file['protocols'].tolist() == ['steps']
        and file['steps'].tolist() == [[3, 3, 3]]
        and file['sizes'].tolist() == [50, 60, 110]
    )
    assert len(file['labels']) == len(load_images('digits', split='test')) and str(file['metric']) == 'auroc'


def mnist_files(root, n=60):
    "Write files as torchvision's MNIST lays them out: a grey level for each digit"
    (root / 'MNIST/raw').mkdir(parents=True)
    for part in ('train', 't10k'):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = np.broadcast_to(20 * labels[:, None, None], (n, 28, 28)).astype(np.uint8)
        for kind, magic, array in (
            ('images-idx3', [8 * 256 + 3, n, 28, 28], images),
            ('labels-idx1', [8 * 256 + 1, n], labels),
        ):
            (root / f'MNIST/raw/{part}-{kind}-ubyte').write_bytes(
                np.array(magic, '>i4').tobytes() + array.tobytes()
            )


def cifar_files(root, n=20):
    "Write files as torchvision's CIFAR-10 lays them out"
    import pickle

    (root / 'cifar-10-batches-py').mkdir(parents=True)
    labels = np.arange(n) % 10
    pixels = np.repeat(20 * labels[:, None], 3072, 1).astype(np.uint8)
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        (root / 'cifar-10-batches-py' / name).write_bytes(
            pickle.dumps({'data': pixels, 'labels': labels.tolist()})
        )
    (root / 'cifar-10-batches-py/batches.meta').write_bytes(
        pickle.dumps({'label_names': [f'kind {c}' for c in range(10)]})
    )


@pytest.mark.parametrize(
    'name, sizes, shape',
    [
        ('mnist', (60, 60), (1, 28, 28)),
        ('MNIST', (60, 60), (1, 28, 28)),
        ('cifar10', (100, 20), (3, 32, 32)),
        ('CIFAR10', (100, 20), (3, 32, 32)),
    ],
)
def test_sets_of_torchvision_in_its_layout(name, sizes, shape, difflow_here, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda *a: True)
    (mnist_files if 'mnist' in name.lower() else cifar_files)(Path('files'))
    labels = torch.arange(40) % 10
    made = ImageSet(
        (20 * labels).to(torch.uint8)[:, None, None, None].expand(-1, *shape).contiguous(), labels
    )
    write('made.npz', made)
    line = (
        f'cas --real {name} --data-dir files --synthetic made.npz --protocol steps --steps 1 --seeds 1 '
        '--batch-size 8 --augmentation none'
    )
    code, out, err = difflow_here(line)
    assert code == 0, err
    file = np.load('cas.npz')
    assert file['sizes'].tolist() == [sizes[0], 40, sizes[0] + 40] and len(file['labels']) == sizes[1]
    assert len(file['classes']) == 10 and file['labels'].tolist() == [i % 10 for i in range(sizes[1])]
    assert difflow_here(f'{line} --max-real 30 --size 16 --channels 1 --out small.npz')[0] == 0
    assert np.load('small.npz')['sizes'].tolist() == [30, 40, 70]


def test_real_images_mean_the_same_whatever_reads_them(tmp_path, monkeypatch):
    from difflow.cli.synthetic_data import _real_sets

    mnist_files(tmp_path)
    for name in ('mnist', 'MNIST'):
        for images in _real_sets(name, None, None, 0, data_dir=tmp_path):
            assert (
                (images.images[:, 0, 14, 14] // 20).tolist()
                == images.labels.tolist()
                == [i % 10 for i in range(60)]
            )
        train, test = _real_sets(name, 'mnist', 20, 0, data_dir=tmp_path, size=14)
        assert (
            len(train) == 20
            and train.labels.bincount().tolist() == [2] * 10
            and test.image_shape == (1, 14, 14)
        )


@pytest.mark.parametrize(
    'line, message',
    [
        (
            '--real flowers',
            'flowers is not in dataset: put its 2040 train images in dataset/flowers/train, '
            '102 folders, one a class',
        ),
        (
            '--real CIFAR10 --data-dir there',
            'torchvision.datasets.CIFAR10: Dataset not found or corrupted. '
            'You can use --download to download it',
        ),
        ('--real melanoma', 'melanoma is not in dataset'),
        ('--real flower', "unknown image set 'flower'"),
    ],
)
def test_sets_that_are_not_there_say_where_they_belong(line, message, difflow):
    code, out, err = difflow(f'cas --synthetic DIR/made.npz {line}')
    assert code == 2 and message in err and len(err.strip().split('\n')) == 1


@pytest.mark.parametrize(
    'line, message',
    [
        ('--synthetic DIR/plain.npz', 'synthetic has no labels'),
        ('--synthetic DIR/none.npz', 'no such folder or npz'),
        ('--synthetic DIR/one', 'synthetic has one class: a classifier needs at least 2'),
        ('--synthetic DIR/made.npz --real DIR/one', 'real_train has one class'),
        ('--synthetic DIR/made.npz --size 10 --channels 2', 'channels must be one of 1, 3, None, got 2'),
        ('--synthetic DIR/made.npz --max-real 1', 'at least 2 images, got 1'),
        ('--synthetic DIR/made.npz --protocol time', 'protocol must be among epochs, steps'),
        ('--synthetic DIR/made.npz --metric f1', 'metric must be one of accuracy, auroc'),
        ('--synthetic DIR/made.npz --classifier vgg', 'classifier must be auto, small'),
        ('--synthetic DIR/made.npz --counts a', "--counts 'a': not integers"),
        ('--synthetic DIR/made.npz --counts 100', 'counts must be an integer in 2..48, got 100'),
        ('--synthetic DIR/made.npz --lr 0', 'lr must be a number in'),
        ('--synthetic DIR/made.npz --recipe theirs', "--recipe 'theirs': allowed are ours, published"),
        (
            '--synthetic DIR/made.npz --recipe published --classifier small',
            '--recipe published has classifier resnet50, the line --classifier small',
        ),
        ('--synthetic DIR/made.npz --dtype float16', "--dtype 'float16': allowed are float32, bfloat16"),
        ('--synthetic DIR/made.npz --out cas.csv', 'cas.csv: the name must end in .npz'),
        ('--synthetic DIR/made.npz --batch-size 1', "'--batch-size'"),
        ('', "'--synthetic'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(line, message, difflow):
    real = '' if '--real' in line else '--real DIR/train'
    code, out, err = difflow(f'cas {real} --test DIR/test --epochs 1 --seeds 1 {line}')
    assert code == 2 and message in err and len(err.strip().split('\n')) == 1
    assert list(Path().iterdir()) == []


LINE = (
    'cas --real DIR/train --test DIR/test --synthetic DIR/made.npz --protocol steps --steps 2 --seeds 1 '
    '--batch-size 8 --augmentation none --out a.npz'
)


@pytest.fixture(scope='module')
def line(folder):
    "What is changed, killed and shared"
    return LINE.replace('DIR', f'{folder}')


@pytest.fixture(scope='module')
def base(line, tmp_path_factory):
    "A folder in which the line has run"
    base = tmp_path_factory.mktemp('base')
    code, printed = call(line, base)
    assert code == 0 and printed.startswith('training on 40 '), printed
    return base


CHANGES = {
    'synthetic': ('DIR/more.npz', 'images of synthetic'),
    'real': ('DIR/other', 'images of real'),
    'test': ('DIR/other', 'test images'),
    'max_real': ('20', 'images of real'),
    'data_dir': 'elsewhere',  # nothing is looked for there
    'download': '',
    'counts': ('20', 'images of synthetic 20'),
    'protocol': 'epochs',
    'epochs': '2',
    'steps': '3',
    'seeds': '2',  # may grow
    'seed': '1',
    'metric': 'auroc',
    'classifier': 'resnet18',
    'augmentation': 'bend',
    'batch_size': '4',
    'lr': '0.2',
    'recipe': 'ours',  # published: below
    'dtype': 'bf16',
    'workers': '2',
    'size': ('7', 'images of real'),
    'channels': ('3', 'images of real'),
    'out': 'b.npz',
    'device': 'cpu',
    'restart': '',
}


@pytest.mark.parametrize('option', command_options('cas'))
def test_every_option_changed_between_two_runs(option, line, base, folder, tmp_path):
    at = lambda value: value.replace('DIR', f'{folder}')  # noqa: E731
    changes = {
        name: at(change) if isinstance(change, str) else (at(change[0]), change[1])
        for name, change in CHANGES.items()
    }
    check_change(option, line, changes, base, tmp_path)


def test_killed_at_any_moment_and_shared(line, run, root, tmp_path):
    "By two processes at once, too, of which one is killed"
    done = run(sys.executable, root / 'tests/cli/moments.py', line, tmp_path, 3, env={'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 6


def test_what_is_kept_is_what_answered_and_a_smaller_order_leaves_it(line, base, folder, tmp_path):
    assert call(f'{line} --seeds 3', tmp_path)[0] == 0
    cas, test = CAS.load(tmp_path / 'a.npz'), load_images(folder / 'test')
    for arm, name in zip(cas.arms, ('real', 'synthetic', 'real+synthetic')):
        for s, seed in enumerate(cas.seeds):
            file = tmp_path / f'a.classifiers/{name}-2steps-seed{seed}.safetensors'
            classifier = load_classifier(file)
            assert classifier.card == {'arm': arm, 'steps': 2, 'seed': seed}
            with torch.no_grad():
                answers = classifier(test.tensor()).softmax(1)
            torch.testing.assert_close(answers, cas.answers[0, cas.arms.index(arm), s])
    before = files_of(tmp_path)
    code, printed = call(line, tmp_path)
    assert code == 0 and '2 more seeds than asked for' in printed and files_of(tmp_path) == before
    assert call(f'{line} --restart', tmp_path)[0] == 0
    assert files_of(tmp_path) == files_of(base)


@pytest.fixture(scope='module')
def published(line, tmp_path_factory):
    "A folder in which the published recipe has run, and what was printed"
    home = tmp_path_factory.mktemp('published')
    code, printed = call(f'{line} --recipe published --dtype bf16 --workers 2 --steps 1', home)
    assert code == 0, printed
    return home, printed


def test_published_recipe_says_classifier_and_cost_first(published, line):
    home, printed = published
    first, second, *_ = printed.splitlines()
    parameters = sum(p.numel() for p in resnet50_for(1, 2).parameters())
    assert first.startswith('training on 40 ') and second == (
        f'3 classifiers to train, resnet50 of {parameters:,} parameters, bfloat16, lr 0.1, momentum 0.9, '
        'weight decay 0.0001, augmentation none: 3 steps of 8 images'
    )
    run = json.loads(str(np.load(home / 'a.npz')['run']))
    known = dict(classifier='resnet50', lr=0.1, momentum=0.9, weight_decay=1e-4, dtype='bfloat16')
    assert {name: run[name] for name in known} == known
    code, again = call(f'{line} --recipe published --dtype bfloat16 --steps 1', home)
    assert code == 0 and again.splitlines()[1] == 'all 3 classifiers are there'
    code, refused = call(f'{line} --steps 1', home)
    assert code == 2 and 'is of another run: classifier resnet50 -> auto, dtype bfloat16 -> None' in refused


def resnet50_for(channels, classes):
    "ResNet-50 of torchvision with a stem for small images, without difflow"
    net = torchvision.models.resnet50(weights=None, num_classes=classes)
    net.conv1 = torch.nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = torch.nn.Identity()
    return net


def test_kept_classifiers_of_the_published_recipe_answer_as_in_the_table(published, folder):
    "Read by difflow, and by nothing but torchvision and safetensors"
    home, _ = published
    cas, test = CAS.load(home / 'a.npz'), load_images(folder / 'test')
    recipe = ClassifierRecipe('resnet50', 'none', 8, dtype='bfloat16')
    for arm, name in zip(cas.arms, ('real', 'synthetic', 'real+synthetic')):
        file = home / f'a.classifiers/{name}-1steps-seed0.safetensors'
        bare = resnet50_for(1, 2).eval()
        bare.load_state_dict(load_file(file))
        answers = cas.answers[0, cas.arms.index(arm), 0]
        for classifier in (recipe.load(file, test.image_shape, 2), bare):
            assert not classifier.training
            with torch.no_grad():
                found = classifier(test.tensor()).softmax(1)
            torch.testing.assert_close(found, answers)
            same = (found.argmax(1) == test.labels).double().mean()
            assert same == cas.values('steps', arm)[0]
    with pytest.raises(ValueError, match='fc.bias'):
        recipe.load(file, test.image_shape, 3)


def test_long_trainings_are_timed_before_they_start(folder, tmp_path, monkeypatch):
    from difflow.synthetic_data import comparison

    monkeypatch.setattr(comparison, '_seconds_a_step', lambda *given: 0.5)
    said, sets = [], [folder / 'train', folder / 'made.npz', folder / 'test']
    options = dict(protocol='steps', seeds=1, batch_size=8, augmentation='none', on_start=said.append)

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    for steps in (66, 67, 20_000):
        with pytest.raises(Stop):
            classification_accuracy_score(*sets, steps=steps, callback=stop, **options)
    assert said[0].endswith(': 198 steps of 8 images') and 's a step' not in said[0]
    assert said[1].endswith('; 0.5 s a step on cpu, about 100 seconds for one process')
    assert said[2].endswith('about 8.3 hours for one process')


def test_melanoma_is_measured_by_auroc_as_published():
    from difflow.cli.synthetic_data import _resolve_recipe

    options = dict(recipe='published', dtype='float32', real='melanoma', metric='accuracy', lr=0.1)
    options |= dict(classifier='auto')
    assert _resolve_recipe(options, set())['metric'] == 'auroc'
    assert _resolve_recipe(options, {'metric'})['metric'] == 'accuracy'
    assert _resolve_recipe(options | dict(real='afhq'), set())['metric'] == 'accuracy'
    assert _resolve_recipe(options | dict(recipe='ours'), set())['metric'] == 'accuracy'


def test_the_library_does_the_same(line, base, folder, tmp_path):
    arguments = [folder / 'train', folder / 'made.npz', folder / 'test']
    options = dict(protocol='steps', steps=2, batch_size=8, augmentation='none')
    taken = []
    for seeds in (1, 3, 3):
        cas = classification_accuracy_score(
            *arguments, seeds=seeds, out=tmp_path / 'a.npz', callback=lambda d, n: taken.append(d), **options
        )
        alone = classification_accuracy_score(*arguments, seeds=seeds, **options)
        assert torch.equal(cas.answers, alone.answers) and str(cas) == str(alone)
        assert not cas.answers.is_inference() and not alone.answers.is_inference()
    assert len(taken) == 3 * 2 * 3
    few = classification_accuracy_score(*arguments, seeds=[0, 2], out=tmp_path / 'a.npz', **options)
    assert few.seeds == [0, 2] and torch.equal(few.answers, cas.answers[:, :, [0, 2]])
    with pytest.raises(ValueError, match='is of another run: seed 0 -> 2'):
        classification_accuracy_score(*arguments, seeds=[2], out=tmp_path / 'a.npz', **options)
    with pytest.raises(ValueError, match='a function must have a name'):
        classification_accuracy_score(
            *arguments, out=tmp_path / 'b.npz', **options | {'augmentation': lambda x, seed, step: x}
        )
