"""How the lines of published scripts run in a test, and what is read afterwards."""

import functools
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from published_runs import Run

from difflow.cli.published_representations import _ENCODERS

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
        for split, n in (('train', 4), ('test', 3)):
            np.save(folder / f'data/{name}/{split}_imgs.npy', rng.random((n, 3, 32, 32)))
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


SMALL = {'n_iters': '1', 'snapshot_freq': '1'}
TRAINING = Run(SMALL, lay_data, check_training)
RUNS = {line.name: TRAINING for line in _ENCODERS if line.script == 'main.py'}
