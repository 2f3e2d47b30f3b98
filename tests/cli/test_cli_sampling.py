"""`difflow sample` as main.py of minimal-diffusion: by two names, without classes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from option_changes import call, files_of

from difflow import Scheduler, UNet, sample
from difflow.checkpoints import published_config
from difflow.cli.models import _load_model
from difflow.data.studies import PUBLISHED_SETS
from difflow.runs import minimal_walk, wanted_images
from golden import FIXTURES, fill

LINE = (
    'sample --arch UNetSmall --dataset mnist --class-cond --sampling-only --num-sampled-images 5 '
    '--sampling-steps 3 --batch-size 3 --pretrained-ckpt CLASSES'
)
NAMES = dict(
    CLASSES='UNetSmall_mnist-epoch_1-timesteps_1000-class_condn_True_ema_0.9995.pt', PLAIN='plain.pt'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with a network with classes and one without"
    folder = tmp_path_factory.mktemp('networks')
    torch.manual_seed(0)
    for name, classes in (('CLASSES', 10), ('PLAIN', None)):
        net = UNet(**published_config('UNetSmall', 28, 1, classes))
        torch.nn.init.normal_(net.out[2].weight, std=0.02)
        torch.save(net.state_dict(), folder / NAMES[name])
    return folder


@pytest.fixture
def run(folder, tmp_path):
    "Run a line in an empty folder, where CLASSES and PLAIN stand for the files"

    def run(line):
        for name, file in NAMES.items():
            line = line.replace(name, str(folder / file))
        return call(line, tmp_path)

    return run


def read(file):
    with np.load(file, allow_pickle=True) as data:
        return data['arr_0'], data['arr_1']


def test_train_with_sampling_only_is_sample(run, tmp_path):
    assert run(f'{LINE} --save-dir one')[0] == 0
    code, printed = run(f'{LINE.replace("sample", "train", 1)} --save_dir two --local_rank=0 --lr 1')
    assert code == 0, printed
    assert printed.count('nothing to do here') == 2  # once for each of the two options
    assert files_of(tmp_path / 'one') == files_of(tmp_path / 'two')
    code, printed = run('train --data digits --num-sampled-images 2 --size 8 --steps 1 --out t')
    assert code == 0 and '--num-sampled-images has nothing to do here' in printed


def test_without_classes_arr_1_is_none_as_there(run, tmp_path):
    line = LINE.replace('--class-cond ', '').replace('CLASSES', 'PLAIN')
    code, printed = run(line)
    assert code == 0 and 'labels' not in printed.splitlines()[0], printed
    stem = 'trained_models/UNetSmall_mnist-3-sampling_steps'
    images, labels = read(tmp_path / f'{stem}-5_images-class_condn_False.npz')
    assert images.shape == (5, 28, 28, 1) and labels.shape == () and labels.dtype == object
    assert labels.item() is None
    assert len(list((tmp_path / f'{stem}-class_condn_False').glob('1122*.png'))) == 5


def test_a_larger_set_makes_what_is_missing(run, tmp_path):
    assert run(LINE)[0] == 0
    code, printed = run(LINE.replace('images 5', 'images 8'))
    assert code == 0 and '8 images' in printed
    stem = tmp_path / 'trained_models/UNetSmall_mnist-3-sampling_steps'
    (five, first), (eight, labels) = (read(f'{stem}-{n}_images-class_condn_True.npz') for n in (5, 8))
    assert (eight[:5].astype(int) - five).__abs__().max() <= 1  # batches of 3: the second one is fuller
    assert labels.tolist()[:5] == first.tolist() and labels.tolist() == [*range(8)]


@pytest.mark.parametrize('words, sampler', [('', 'ddpm'), ('--ddim', 'legacy_ddim')])
def test_as_published(words, sampler, run, folder, tmp_path):
    "Drawn labels, grey levels cut off, the noise of DDIM as predicted"
    from difflow.runs import legacy_ddim

    assert run(f'{LINE} {words} --as-published --batch-size 5')[0] == 0
    images, labels = read(
        tmp_path / 'trained_models/UNetSmall_mnist-3-sampling_steps-5_images-class_condn_True.npz'
    )
    chosen = wanted_images(10, 5, seed=112233, random=True)
    assert labels.tolist() == [w.label for w in chosen] != [0, 1, 2, 3, 4]
    denoiser = _load_model(str(folder / NAMES['CLASSES']), 'cpu', dataset='mnist')
    made = sample(
        denoiser,
        5,
        dict(ddpm='ddpm', legacy_ddim=legacy_ddim)[sampler],
        scheduler=minimal_walk(denoiser, 3),
        seeds=[w.seed for w in chosen],
        labels=torch.from_numpy(labels),
        progress=False,
    )
    published = (127.5 * (made.clamp(-1, 1).permute(0, 2, 3, 1).numpy() + 1)).astype(np.uint8)
    assert (images == published).all()


@pytest.mark.parametrize('words, name', [('', 'ddpm'), ('--ddim', 'ddim')])
def test_the_npz_is_that_of_the_original(words, name, tmp_path):
    "See tests/runs/test_minimal_diffusion.py for how theirs was made"
    config = dict(image_size=8, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1)
    config |= dict(attention_resolutions=[8, 4], time_embed_mult=2, channel_mult=(1, 2), num_classes=4)
    config |= dict(num_head_channels=16, resblock_updown=True, use_new_attention_order=True)
    net = fill(UNet(**config))
    with torch.no_grad():
        net.out[2].weight.mul_(0.1), net.out[2].bias.mul_(0.1)
    torch.save(net.state_dict(), tmp_path / 'tiny.pt')
    tell = '--image-size 8 --num-head-channels 16 --use-new-attention-order --noise-schedule cosine'
    line = f'sample --model tiny.pt {tell} --n 4 --seed 112233 --sampling-steps 20 --as-published {words}'
    code, printed = call(f'{line} --load variance=fixed_small --npz made.npz', tmp_path)
    assert code == 0, printed
    images, labels = read(tmp_path / 'made.npz')
    with np.load(FIXTURES / 'minimal_diffusion_samples.npz') as theirs:
        assert labels.tolist() == theirs['labels'].tolist()
        apart = np.abs(images.astype(int) - theirs[f'{name}_20_uint8'])
    assert apart.max() <= 1 and (apart > 0).mean() < 0.01


@pytest.mark.parametrize(
    'change, message',
    [
        (
            ('--arch UNetSmall', '--arch UNet'),
            '--arch UNet of 28 pixels has model_channels 64, num_res_blocks 3, ',
        ),
        (('--arch UNetSmall', '--arch UNets'), "--arch 'UNets': allowed are UNet, UNetBig, UNetSmall"),
        (('--arch UNetSmall', ''), '--sampling-only names its file by --arch and --dataset: give --arch'),
        (('--dataset mnist', ''), 'give --dataset'),
        (('--dataset mnist', '--dataset gtsrb'), '--dataset gtsrb: it has 3 channels, CLASSES 1'),
        (('--dataset mnist', '--dataset mnits'), "--dataset 'mnits': allowed are mnist, mnist_m"),
        (('--class-cond', ''), 'no --class-cond on this line, but CLASSES has 10 classes'),
        (('CLASSES', 'PLAIN'), '--class-cond, but PLAIN has no classes'),
        (('--pretrained-ckpt CLASSES', ''), 'give --pretrained-ckpt, the model to sample from'),
        (('--class-cond', '--class-cond --model digits'), '--model and --pretrained-ckpt: give one of them'),
        (('--class-cond', '--class-cond --steps 4'), '--steps and --sampling-steps: give one of them'),
        (('--class-cond', '--class-cond --diffusion-steps 4000'), '--diffusion-steps 4000, but CLASSES is '),
        (('--class-cond', '--class-cond --delete-keys out.7'), '--delete-keys out.7: the network has no '),
        (('--class-cond', '--class-cond --random-labels --label 1'), '--random-labels draws'),
        (('--sampling-steps 3', '--sampling-steps 1'), '--sampling-steps'),
    ],
)
def test_what_does_not_fit_is_refused_by_both_names(change, message, run, folder, tmp_path):
    for name, file in NAMES.items():
        message = message.replace(name, str(folder / file))
    code, printed = run(LINE.replace(*change))
    assert code == 2 and message in printed and len(printed.strip().splitlines()) == 1, printed
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope='module')
def states():
    "Weights of a small network by side and channels, without the classes"
    shapes = [(28, 1), (28, 3), (32, 3), (64, 3)]
    return {shape: UNet(**published_config('UNetSmall', *shape, 2)).state_dict() for shape in shapes}


@pytest.mark.parametrize('name', PUBLISHED_SETS)
def test_the_data_set_alone_says_what_a_checkpoint_leaves_out(name, states, tmp_path):
    known = PUBLISHED_SETS[name]
    shape = known.image_size, known.channels
    state = states[shape] | {'label_emb.weight': torch.zeros(known.num_classes, 64)}
    prefix = 'module.' if name in ('mnist', 'cars', 'cifar10') else ''
    torch.save({f'{prefix}{key}': tensor for key, tensor in state.items()}, tmp_path / 'm.pt')
    code, printed = call(f'sample --model m.pt --dataset {name} --n 2 --steps 1 --npz m.npz', tmp_path)
    assert code == 0, printed
    images, labels = read(tmp_path / 'm.npz')
    assert images.shape == (2, shape[0], *shape) and labels.tolist() == [0, 1]
    assert f'{known.num_classes} classes' in printed.splitlines()[0] and 'assumed' not in printed
    denoiser = _load_model(str(tmp_path / 'm.pt'), 'cpu', dataset=name)
    with torch.device('meta'):
        wanted = UNet(**published_config('UNetSmall', *shape, known.num_classes)).config
    assert denoiser.net.config == wanted
    assert denoiser.scheduler == Scheduler.cosine(1000) and denoiser.prediction == 'eps'


def test_two_data_sets_of_one_shape_are_told_apart_by_the_name_of_the_file(tmp_path):
    net = UNet(**published_config('UNetSmall', 32, 3, 10))
    file = tmp_path / 'UNetSmall_cifar10-epoch_1-timesteps_1000-class_condn_True.pt'
    torch.save(net.state_dict(), file)
    line = LINE.replace('--dataset mnist', '--dataset mnist_m').replace('CLASSES', file.name)
    code, printed = call(line, tmp_path)
    assert code == 2 and f'--dataset mnist_m, but {file.name} is named after cifar10' in printed


def test_a_file_of_others_is_not_overwritten(run, tmp_path):
    file = tmp_path / 'trained_models/UNetSmall_mnist-3-sampling_steps-5_images-class_condn_True.npz'
    file.parent.mkdir()
    file.write_bytes(b'fifty thousand images')
    code, printed = run(LINE)
    assert code == 2 and 'is there, but not' in printed and file.read_bytes() == b'fifty thousand images'
    assert run(f'{LINE} --restart')[0] == 0 and len(read(file)[0]) == 5
    assert run(LINE)[0] == 0


def test_deleted_weights_are_drawn_by_the_seed(run, tmp_path):
    line = f'{LINE} --delete-keys module.label_emb.weight,out.2.bias'
    assert run(f'{line} --save-dir a')[0] == run(f'{line} --save-dir b')[0] == run(LINE)[0] == 0
    a, b, whole = (files_of(tmp_path / name) for name in ('a', 'b', 'trained_models'))
    assert a == b != whole and a.keys() == whole.keys()


def test_the_defaults_of_main_hold(monkeypatch):
    "What is not on the line is as in main.py: 50 000 images by 250 steps of DDPM, in batches of 128"
    from difflow.cli import sampling

    given = dict(arch='UNet', dataset='cifar10', sampling_only=False, pretrained_ckpt='x', class_cond=None)
    ours = dict(n=None, sampling_steps=None, batch_size=64, seed=0, out=Path('samples'), class_counts=None)
    plain = dict.fromkeys(('random_labels', 'label')) | dict(model='mnist')
    options = sampling._resolve({**plain, **ours, **given}, {'arch', 'dataset', 'pretrained_ckpt'})
    found = [options[name] for name in ('n', 'sampling_steps', 'batch_size', 'seed', 'out', 'model')]
    assert found == [50_000, 250, 128, 112233, Path('trained_models'), 'x']
