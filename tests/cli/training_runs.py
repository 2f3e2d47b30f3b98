"""How the lines of published training scripts run in a test, and what is read afterwards."""

import io
import json
import re
import struct
import zipfile
from functools import cache

import numpy as np
import torch
from PIL import Image
from published_runs import Run
from safetensors.torch import load_file

from difflow.networks import edm_network
from edm_files import precond, snapshot

STEPS = 3


def pixels(count, side, channels=3):
    shape = (count, side, side, channels)[: 3 + (channels > 1)]
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def zipped(name, labelled=False, count=8, side=8):
    "Return what writes a data set of EDM, {folder}/00000/img00000000.png and dataset.json in a zip"

    def write(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / name, 'w') as archive:
            names = [f'00000/img{i:08d}.png' for i in range(count)]
            for file, image in zip(names, pixels(count, side), strict=True):
                content = io.BytesIO()
                Image.fromarray(image).save(content, 'png')
                archive.writestr(file, content.getvalue())
            labels = [[file, i % 3] for i, file in enumerate(names)] if labelled else None
            archive.writestr('dataset.json', json.dumps({'labels': labels}))

    return write


# EDM


def small_network(arch, *arguments, **options):
    "Build a network of EDM with one block a level"
    width = 64 if arch == 'adm' else 16
    return edm_network(arch, *arguments, **options | dict(num_blocks=1, model_channels=width))


def few_steps(patch, steps=STEPS, batch_size=4):
    "A network of one block a level, few steps and small batches, where the line does not say otherwise"
    import difflow.training.recipes as recipes
    import difflow.training.ticks as ticks

    patch.setattr(recipes, 'edm_network', small_network)
    patch.setattr(ticks, 'steps_of', lambda *arguments: steps)
    patch.setitem(recipes._RECIPES['edm'], 'batch_size', batch_size)


STATISTICS = (
    'Loss/loss Progress/tick Progress/kimg Timing/total_sec Timing/sec_per_tick Timing/sec_per_kimg '
    'Timing/maintenance_sec Timing/total_hours Timing/total_days Resources/cpu_mem_gb '
    'Resources/peak_gpu_mem_gb Resources/peak_gpu_mem_reserved_gb'
).split()


def read_statistics(path):
    "Return the lines of a stats.jsonl of EDM; AssertionError for others"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        assert sorted(row) == sorted([*STATISTICS, 'timestamp']) and row['timestamp'] > 1.7e9
        assert all(sorted(row[name]) == ['mean', 'num', 'std'] for name in STATISTICS)
        assert row['Loss/loss']['num'] >= 1 and row['Loss/loss']['mean'] > 0
    return rows


def check_edm(run, steps=STEPS, batch=4, first=0, **network):
    "Return the check of a folder of EDM, named `run`"

    def check(folder, printed):
        folder = folder / run
        names = {p.name for p in folder.iterdir()}
        last = steps * batch // 1000
        assert f'network-snapshot-{last:06d}.safetensors' in names
        assert f'training-state-{last:06d}.safetensors' in names
        options = json.loads((folder / 'training_options.json').read_text())
        assert options['total_kimg'] == steps * batch / 1000 and options['batch_size'] == batch
        assert options['run_dir'] == run and options['optimizer_kwargs']['betas'] == [0.9, 0.999]
        assert options['optimizer_kwargs']['eps'] == 1e-8
        for name, value in network.items():
            part, _, name = name.rpartition('__')
            assert (options[part] if part else options)[name] == value, name
        rows = read_statistics(folder / 'stats.jsonl')
        assert [row['Progress/kimg']['mean'] for row in rows][-1] == steps * batch / 1000
        assert rows[0]['Progress/kimg']['mean'] == (first + 1 + (first > 0)) * batch / 1000 or first
        log = (folder / 'log.txt').read_text()
        assert log.strip() and log.strip() in printed
        weights = load_file(folder / f'network-snapshot-{last:06d}.safetensors')
        assert all(tensor.isfinite().all() for tensor in weights.values())

    return check


def check_twice(folder, printed):
    "The same line goes on with the run, a --desc or a --seed has the next number, to the letter"
    name = 'synthetic-cifar10-32x32-n128-uncond-ddpmpp-vp-gpus1-batch4-fp32'
    check_edm(
        f'training/00000-{name}',
        dataset_kwargs__use_labels=False,
        network_kwargs__class_name='training.networks.VPPrecond',
        network_kwargs__augment_dim=9,
        loss_kwargs__class_name='training.loss.VPLoss',
        augment_kwargs__p=0.12,
        kimg_per_tick=50.0,
        snapshot_ticks=500,
        seed=0,
    )(folder, printed)
    words = '--outdir=training --data=datasets/synthetic-cifar10-32x32-n128.zip --cond=0 --arch=ddpmpp '
    words += '--duration 1 --batch 4 --snap 500 --dump 500 --precond vp --model_channels 32'
    stats = folder / f'training/00000-{name}/stats.jsonl'
    before = stats.read_text()
    for more in ('', '--desc two', '--seed 3'):
        run_line(folder, f'train {words} {more}')
    assert sorted(p.name for p in (folder / 'training').iterdir()) == [
        f'00000-{name}',
        f'00001-{name}-two',
        f'00002-{name}',
    ]
    assert stats.read_text() == before


def run_line(folder, words):
    from option_changes import call

    code, printed = call(words, folder)
    assert code == 0, printed
    return printed


def check_dry(folder, printed):
    options = json.loads(printed[printed.index('{\n') : printed.rindex('}') + 1])
    assert options['network_kwargs']['model_channels'] == 16 and options['batch_size'] == 4
    assert 'training/NNNNN-synthetic-cifar10-32x32-n128-uncond-ddpmpp-vp-gpus1-batch4-fp32' in printed
    assert not (folder / 'training').exists()


def check_options(folder, printed):
    assert '--ls has nothing to do' in printed and '--bench has nothing to do' in printed
    check_edm(
        'training',
        dataset_kwargs__xflip=True,
        dataset_kwargs__max_size=16,
        batch_gpu=2,
        seed=1,
        network_kwargs__channel_mult=[2, 2],
        network_kwargs__class_name='training.networks.VEPrecond',
    )(folder, printed[printed.index('training on') :])


@cache
def published_state(arch='ddpmpp'):
    "Return the bytes of a snapshot of EDM and of its training state, and the network and the moments in them"
    torch.manual_seed(7)
    net = small_network(arch, 8, 3, augment_dim=9)
    raw = small_network(arch, 8, 3, augment_dim=9)
    for parameter in raw.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(raw.parameters(), lr=1e-3)
    optimizer.step()
    content = dict(net=precond('EDMPrecond', raw, sigma_data=0.5), optimizer_state=optimizer.state_dict())
    return net, raw, optimizer.state_dict(), torch_bytes(content)


def torch_bytes(content):
    "Return what torch.save writes, with the module names of EDM in place"
    import sys

    from edm_files import THEIRS

    file = io.BytesIO()
    sys.modules |= THEIRS
    try:
        torch.save(content, file)
    finally:
        for name in THEIRS:
            del sys.modules[name]
    return file.getvalue()


def lay_state(folder, where='training-runs/00000-cifar10-32x32-uncond-ddpmpp-edm-gpus8-batch512-fp32'):
    zipped('datasets/cifar10-32x32.zip')(folder)
    net, _, _, state = published_state()
    (folder / where).mkdir(parents=True)
    snapshot(folder / where / 'network-snapshot-000001.pkl', 'EDMPrecond', net, sigma_data=0.5)
    (folder / where / 'training-state-000001.pt').write_bytes(state)


def check_resumed(folder, printed):
    assert ': 250 of 252 steps are made' in printed and '2 of 252 steps, ' in printed
    name = 'training-runs/00001-cifar10-32x32-uncond-ddpmpp-edm-gpus1-batch4-fp32'
    check_edm(name, steps=252, first=250)(folder, printed)
    _, raw, state, _ = published_state()
    ours = load_file(folder / name / 'training.safetensors')
    moved = [(ours[f'raw.net.{k}'] - v).abs().max().item() for k, v in raw.named_parameters()]
    assert 0 < max(moved) < 1e-3  # two steps of a learning rate that rises: from these weights
    assert {ours[k].item() for k in ours if k.endswith('.step')} == {3.0}
    place = next(i for i, (name, _) in enumerate(raw.named_parameters()) if 'conv0.weight' in name)
    theirs = state['state'][place]['exp_avg']
    ours = ours[f'optimizer.{place}.exp_avg']
    assert torch.corrcoef(torch.stack([theirs.flatten(), ours.flatten()]))[0, 1] > 0.9


def lay_snapshot(folder):
    zipped('datasets/afhqv2-64x64.zip')(folder)
    snapshot(folder / 'network-snapshot-000001.pkl', 'EDMPrecond', published_state()[0], sigma_data=0.5)


def check_transferred(folder, printed):
    name = 'training-runs/00000-afhqv2-64x64-uncond-ddpmpp-edm-gpus1-batch4-fp32'
    check_edm(name)(folder, printed)
    ours, theirs = load_file(folder / name / 'model.safetensors'), published_state()[0].state_dict()
    assert all(
        (ours[f'net.{k}' if f'net.{k}' in ours else k] - v).abs().max() < 1e-2 for k, v in theirs.items()
    )


SMALL = dict(batch='4', model_channels='32', duration='1')
RUNS = {
    'S1 train': Run(
        SMALL, zipped('datasets/synthetic-cifar10-32x32-n128.zip'), check_twice, smaller=few_steps
    ),
    'S1 train EDM cifar10 cond': Run(
        {},
        zipped('datasets/cifar10-32x32.zip', labelled=True),
        check_edm(
            'training-runs/00000-cifar10-32x32-cond-ddpmpp-edm-gpus1-batch4-fp32',
            dataset_kwargs__use_labels=True,
            ema_halflife_kimg=500.0,
            optimizer_kwargs__lr=1e-3,
            state_dump_ticks=500,
        ),
        smaller=few_steps,
    ),
    'S1 train EDM cifar10 ncsnpp': Run(
        {},
        zipped('datasets/cifar10-32x32.zip'),
        check_edm(
            'training-runs/00000-cifar10-32x32-uncond-ncsnpp-edm-gpus1-batch4-fp32',
            network_kwargs__encoder_type='residual',
        ),
        smaller=few_steps,
    ),
    'S1 train EDM ffhq': Run(
        dict(batch='4'),
        zipped('datasets/ffhq-64x64.zip'),
        check_edm(
            'training-runs/00000-ffhq-64x64-uncond-ddpmpp-edm-gpus1-batch4-fp32',
            network_kwargs__channel_mult=[1, 2, 2, 2],
            network_kwargs__dropout=0.05,
            augment_kwargs__p=0.15,
            optimizer_kwargs__lr=2e-4,
        ),
        smaller=few_steps,
    ),
    'S1 train EDM imagenet': Run(
        dict(batch='4', duration='1'),
        zipped('datasets/imagenet-64x64.zip', labelled=True),
        check_edm(
            'training-runs/00000-imagenet-64x64-cond-adm-edm-gpus1-batch4-fp16',
            network_kwargs__model_type='DhariwalUNet',
            network_kwargs__use_fp16=True,
            ema_halflife_kimg=50000.0,
            kimg_per_tick=200.0,
        ),
        smaller=few_steps,
    ),
    'S1 train every option': Run(
        dict(batch='4', duration='1'),
        zipped('datasets/synthetic-cifar10-32x32-n128.zip'),
        check_options,
        smaller=few_steps,
    ),
    'S1 train dry run': Run(
        SMALL, zipped('datasets/synthetic-cifar10-32x32-n128.zip'), check_dry, smaller=few_steps
    ),
    'S1 train transfer': Run(dict(batch='4'), lay_snapshot, check_transferred, smaller=few_steps),
    'S1 train resume': Run({}, lay_state, check_resumed, smaller=lambda patch: few_steps(patch, 252)),
}


# minimal-diffusion


def small_unet(name, image_size, channels=3, num_classes=None):
    "The arguments of a small U-Net in place of those of a published one"
    return dict(
        image_size=image_size,
        in_channels=channels,
        out_channels=channels,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        patch_size=4,
        dropout=0.1,
        num_classes=num_classes,
    )


def small_minimal(patch):
    "A small network, two levels for the grids and batches of four, where the line does not say otherwise"
    import difflow.training.recipes as recipes

    patch.setattr(recipes, 'published_config', small_unet)
    for name, value in dict(sampling_steps=2, batch_size=4).items():
        patch.setitem(recipes._RECIPES['minimal'], name, value)


def lay_classes(where, count, side, ending='png', grey=False):
    "Return what writes a folder of classes with one image each"

    def write(folder):
        for k, image in enumerate(pixels(count, side, 1 if grey else 3)):
            (folder / where / f'{k:05d}').mkdir(parents=True)
            Image.fromarray(image).save(folder / where / f'{k:05d}/00000.{ending}')

    return write


def lay_mnist(folder):
    "Write the four files of MNIST where torchvision looks for them, with five training images"
    raw = folder / 'dataset/MNIST/raw'
    raw.mkdir(parents=True)
    for part, count in (('train', 5), ('t10k', 2)):
        head = struct.pack('>IIII', 2051, count, 28, 28)
        (raw / f'{part}-images-idx3-ubyte').write_bytes(head + pixels(count, 28, 1).tobytes())
        labels = struct.pack('>II', 2049, count) + bytes(range(count))
        (raw / f'{part}-labels-idx1-ubyte').write_bytes(labels)


def lay_flowers(folder):
    "Write six of Oxford's flowers as they are published: four for training"
    from scipy.io import savemat

    root = folder / 'oxford_102_flowers'
    (root / 'jpg').mkdir(parents=True)
    for i, image in enumerate(pixels(6, 70), 1):
        Image.fromarray(image).save(root / f'jpg/image_{i:05d}.jpg')
    savemat(root / 'setid.mat', dict(trnid=[[6, 2]], valid=[[1, 3]], tstid=[[4, 5]]))
    savemat(root / 'imagelabels.mat', dict(labels=[[1, 2, 3, 4, 5, 102]]))


def lay_start(folder):
    "Write a folder of classes, and weights of another number of classes to start from"
    lay_classes('dataset', 10, 28)(folder)
    from difflow import UNet

    torch.manual_seed(3)
    state = UNet(**small_unet('UNetSmall', 28, 3, 4)).state_dict()
    torch.save({f'module.{name}': tensor for name, tensor in state.items()}, folder / 'UNetSmall_start.pt')
    (folder / 'trained_models').mkdir()


def check_minimal(name, levels, steps, arch='UNet', side=32, epochs=1, save_dir='trained_models'):
    "Return the check of the three files of a run, by their names to the letter"

    def check(folder, printed):
        stem = f'{arch}_{name}-epoch_{epochs}-timesteps_1000-class_condn_True'
        row = f'{arch}_{name}-1000_steps-{levels}-sampling_steps-class_condn_True.png'
        there = {p.name for p in (folder / save_dir).iterdir()}
        assert {f'{stem}.pt', f'{stem}_ema_0.9995.pt', row, 'model.safetensors'} <= there
        assert re.search(rf'^{steps} of {steps} steps, ', printed, re.M)
        raw, averaged = (
            torch.load(folder / save_dir / f'{stem}{end}.pt', weights_only=True)
            for end in ('', '_ema_0.9995')
        )
        assert raw.keys() == averaged.keys() and type(raw) is dict or type(raw).__name__ == 'OrderedDict'
        assert {
            'time_embed.0.weight',
            'label_emb.weight',
            'input_blocks.0.0.weight',
            'out.2.bias',
        } <= raw.keys()
        assert any((raw[key] != averaged[key]).any() for key in raw)
        ours = load_file(folder / save_dir / 'model.safetensors')
        for key, tensor in averaged.items():
            assert torch.equal(ours[key if key in ours else f'net.{key}'], tensor)
        with Image.open(folder / save_dir / row) as picture:
            assert picture.size == (64 * side, side)

    return check


def minimal(name, count, steps, where='', side=32, lay=None, levels=2, epochs='1', **change):
    "Return the run of a line of minimal-diffusion: `count` images in batches of four"
    change = dict(epochs=epochs) | change | (dict(data_dir=where) if where else {})
    lay = lay or lay_classes(where or f'dataset/{name}/train', count, 32 if name == 'cifar10' else side + 6)
    return Run(change, lay, check_minimal(name, levels, steps, side=side), smaller=small_minimal)


SIZES = dict(batch_size='4', sampling_steps='2')
RUNS |= {
    'S3 train': minimal('cifar10', 10, 3),
    'S3 train mnist': minimal('mnist', 5, 2, '', 28, lay_mnist, **SIZES),
    'S3 train mnist_m': minimal('mnist_m', 10, 3, 'all_mnist/mnist_m/train/', 28, **SIZES),
    'S3 train melanoma': minimal('melanoma', 2, 1, 'org_balanced/train/', 64, **SIZES),
    'S3 train cifar10': minimal('cifar10', 10, 3, '', **SIZES),
    'S3 train afhq': minimal('afhq', 3, 1, 'afhq256/train/', 64, **SIZES),
    'S3 train celeba': minimal('celeba', 4, 1, 'celebA_male_smile_64_balanced/train/', 64, **SIZES),
    'S3 train cars': minimal('cars', 196, 1, 'cars/train/', 64, **SIZES | dict(batch_size='196')),
    'S3 train flowers': minimal('flowers', 4, 1, 'oxford_102_flowers/', 64, lay_flowers, **SIZES),
    'S3 train gtsrb': minimal(
        'gtsrb',
        43,
        11,
        'Images/',
        lay=lay_classes('Images', 43, 38, 'ppm'),
        **SIZES,
    ),
    'S3 train every option': Run(
        dict(batch_size='4', epochs='1', sampling_steps='2', data_dir='./dataset/'),
        lay_start,
        check_minimal('mnist_m', 2, 3, 'UNetSmall', 28),
        smaller=small_minimal,
    ),
}
