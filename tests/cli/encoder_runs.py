"""How the lines of published scripts run in a test, and what is read afterwards."""

import functools
import pickle
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from published_runs import Run

from difflow import TimeEncoder, trajectory_codes
from difflow.cli.published_representations import _ENCODERS
from difflow.data.studies import PublishedImages

CLASSES = {'cifar10': 'images/cifar/cifar10/by-image', 'cifar100': 'images/cifar/cifar100/by-image'}


@functools.cache
def study_data() -> Path:
    "Return a folder with few images of the sets of the study at their places below data"
    from PIL import Image

    folder, rng = Path(tempfile.mkdtemp(prefix='study')), np.random.default_rng(0)

    def pictures(place, side, count=1):
        for name in 'cat dog'.split():
            (folder / 'data' / place / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / 'data' / place / name / f'{i}.png')

    for place in CLASSES.values():
        pictures(f'{place}/train+val', 32)
        pictures(f'{place}/test', 32)
    pictures('images/miniimagenet/train', 84)
    pictures('images/miniimagenet/test', 84)
    for name, kinds in (('synthetic', 4), ('cmnist', 3)):
        (folder / 'data' / name).mkdir()
        for split, n in (('train', 3), ('test', 2)):
            np.save(folder / f'data/{name}/{split}_imgs.npy', rng.random((n, 3, 16, 16)))
            np.save(folder / f'data/{name}/{split}_labels.npy', rng.integers(0, 9, (n, kinds)).astype(float))
    celeba(folder / 'data/celeba', rng)
    return folder


def celeba(place, rng):
    "Lay out six pictures as Kaggle packs CelebA: three to train on, one of the validation, two to test"
    from PIL import Image

    pictures = place / 'img_align_celeba/img_align_celeba'
    pictures.mkdir(parents=True)
    names = [f'{i:06d}.jpg' for i in range(1, 7)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8)).save(pictures / name)
    parts = 0, 0, 0, 1, 2, 2
    rows = [f'{name},{part}' for name, part in zip(names, parts, strict=True)]
    (place / 'list_eval_partition.csv').write_text('\n'.join(['image_id,partition', *rows, '']))
    signs = rng.choice([-1, 1], (6, 40))
    rows = [f'{name},{",".join(map(str, row))}' for name, row in zip(names, signs, strict=True)]
    head = ','.join(['image_id', *(f'A{i}' for i in range(40))])
    (place / 'list_attr_celeba.csv').write_text('\n'.join([head, *rows, '']))


def lay_data(folder):
    "Lay the data of the study in the folder of a run"
    shutil.copytree(study_data(), folder, dirs_exist_ok=True)


PARTS = 'time_embedding.param_t time_embedding.all_modules.0.W conv1.weight layer3.3.conv2.bias'


def check_training(folder, printed):
    "Read the files of main.py back as its next scripts do"
    place = next(folder.glob('trained_models/2e-4/*/*_0'))
    assert place.name.count('_mixup') == ('cmnist' in place.name)
    encoder = torch.load(place / 'checkpointsenc_/encoder_state_1.pth', weights_only=True)
    first = torch.load(place / 'checkpointsenc_/encoder_state_0.pth', weights_only=True)
    assert list(encoder) == list(first) and set(PARTS.split()) <= encoder.keys()
    drawn = 'probabilistic' in place.parent.name or 'vae' in place.parent.name
    assert ('linear_latent.weight' in encoder) == drawn and list(encoder)[-2:] == [
        'linear.weight',
        'linear.bias',
    ]
    assert encoder['layer1.0.conv1.weight'].dtype == torch.float32
    for number, step in ((0, 1), (1, 2)):
        state = torch.load(place / f'checkpoints_/checkpoint_{number}.pth', weights_only=True)
        assert set(state) == {'optimizer', 'model', 'ema', 'step'} and state['step'] == step
        assert (
            set(state['ema']) == {'decay', 'num_updates', 'shadow_params'} and state['ema']['decay'] == 0.999
        )
    assert torch.equal(state['model']['module.encoder.conv1.weight'], encoder['conv1.weight'])
    assert state['optimizer']['param_groups'][0]['lr'] == 2e-4
    assert encoder['bn1.num_batches_tracked'] == first['bn1.num_batches_tracked'] + 1 == 2
    assert (place / 'samples_').is_dir() and (place / 'checkpoints-meta_').is_dir()
    lines = (place / 'stdout.txt').read_text().split('\n')
    assert float(lines[-2].split(':')[-1]) > 0 and 'step: 0, eval_loss: ' in lines[-2]
    found = [re.search(r'step: (\d), (\w+): (\S+)$', line) for line in lines]
    steps = [(m[1], m[2]) for m in found if m]
    assert steps == [('0', 'training_loss'), ('0', 'eval_loss')]  # every 50 and every 100 steps


GRANULARITIES = 2, 5, 7, 10, 17, 25, 37, 50


def value(line, name):
    "Return what follows the option of this name in a line"
    words = line.words.split()
    return words[words.index(name) + 1]


def run_of(line):
    "Return the folder of a run of representations.py, as that script names it"
    get = lambda name: value(line, f'--{name}')
    return f'trained_models/{get("lr")}/{get("mode")}/{get("data")}_{get("widen-factor")}_none_{get("seed")}'


def fresh_encoder(line):
    "Return an encoder with running statistics of its own"
    torch.manual_seed(0)
    drawn = value(line, '--mode') == 'probabilistic-drl'
    encoder = TimeEncoder(float(value(line, '--widen-factor')), 3, drawn, 28, 16.0)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
    return encoder.eval()


def lay_encoder(line):
    "Return what lays the data and an encoder as main.py leaves it"

    def lay(folder):
        lay_data(folder)
        place = folder / run_of(line) / 'checkpointsenc_'
        place.mkdir(parents=True)
        state = fresh_encoder(line).state_dict()
        size = len(state['bn1.weight'])
        head = {'linear.weight': torch.ones(10, size), 'linear.bias': torch.ones(10)}
        torch.save(
            {'time_embedding.param_t': torch.tensor(0.0), **state, **head}, place / 'encoder_state_1.pth'
        )

    return lay


def check_codes(line):
    "Return what reads the pickles of representations.py back, as the read-outs do"
    data = value(line, '--data')

    def check(folder, printed):
        place = folder / run_of(line)
        for split in ('train', 'test'):
            images = PublishedImages.at_place(data, folder / 'data', split)
            n, seen = len(images), {}
            for g in GRANULARITIES:
                content = pickle.loads((place / f'{split}_{g}.pkl').read_bytes())
                assert set(content) == {'Representation', 'Labels'}
                times = np.arange(g + 1) / g
                assert list(content['Representation']) == list(times)
                assert all(type(t) is np.float64 for t in content['Representation'])
                for t, codes in content['Representation'].items():
                    assert codes.dtype == np.float32 and codes.shape[0] == n
                    assert np.array_equal(seen.setdefault(t, codes), codes)  # of all granularities
                labels = np.asarray(images.labels)
                assert content['Labels'].shape == (labels.size,)
                assert np.array_equal(content['Labels'].reshape(labels.shape), labels)
                floats = data in ('synthetic', 'cmnist')  # their arrays are read as floats
                assert content['Labels'].dtype == (np.float32 if floats else np.int64)
            assert len(seen) == 109
            expected = trajectory_codes(fresh_encoder(line), images.images, [0, 0.2, 1])
            for i, t in enumerate((0, 0.2, 1)):
                assert np.allclose(seen[t], expected[:, i], atol=1e-5)

    return check


def lay_logs(folder):
    "Lay the logs of two seeds, as the published main.py leaves them"
    for seed in (0, 1):
        place = folder / f'trained_models/2e-4/reg-drl/synthetic_0.25_none_{seed}'
        place.mkdir(parents=True)
        lines = [
            f'INFO - run_lib.py - 2022-05-01 10:00:00,000 - step: {step}, {kind}: {loss:.5e}'
            for step in (0, 250000)
            for kind, loss in (('training_loss', 100 + seed), ('eval_loss', 200 + 2 * seed))
        ]
        (place / 'stdout.txt').write_text('\n'.join(['INFO - run_lib.py - 2022 - train', *lines, '']))


def check_losses(folder, printed):
    assert printed.strip() == '2e-4 | synthetic | reg-drl | 0.25 | 100.5 | 201.0 | 2.0'


SMALL = {'n_iters': '1', 'snapshot_freq': '1'}
RUNS = {
    line.name: Run(SMALL, lay_data, check_training)
    if line.script == 'main.py'
    else Run({}, lay_encoder(line), check_codes(line))
    if line.script == 'representations.py'
    else Run({}, lay_logs, check_losses)
    for line in _ENCODERS
}
