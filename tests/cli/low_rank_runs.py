"""How the lines of published scripts run in a test, and what is read afterwards."""

import functools
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from published_runs import Run

from difflow import SongUNet, load_denoiser
from edm_files import snapshot
from edm_networks import TINY, by_order


@functools.cache
def small_snapshot(classes=0):
    "Return the bytes of a snapshot of 4 x 4 images in EDM's pickle"
    net = by_order(SongUNet(**TINY | dict(img_resolution=4, attn_resolutions=[2]), label_dim=classes))
    with tempfile.TemporaryDirectory() as folder:
        return snapshot(Path(folder, 'net.pkl'), 'EDMPrecond', net, sigma_data=0.5).read_bytes()


def measured(classes=0):
    "Return the run of a line of jacobian.py"

    def prepare(folder):
        (folder / 'net.pkl').write_bytes(small_snapshot(classes))

    def check(folder, printed):
        found = re.findall(r'^SNR 1/sigma_t: (\d+\.\d{3}), rank: (\d+)$', printed, re.MULTILINE)
        assert len(found) == 18 and (found[0][0], found[-1][0]) == ('0.013', '500.000')
        with np.load(folder / 'jacobian.npz') as file:
            values, rank, labels = file['values'], file['rank'], file['labels']
        assert values.shape == (18, 1, 48) and [int(r) for _, r in found] == rank[:, 0].tolist()
        sums = np.sqrt(np.cumsum(values.astype(np.float32) ** 2, axis=2))[:, 0]  # the published rule
        assert rank[:, 0].tolist() == [int(np.argmax(s > 0.99 * s[-1])) + 1 for s in sums]
        assert labels.tolist() == ([5] if classes else [])

    return Run({'network_pkl': 'net.pkl'}, prepare, check)


NAME = 'MoLRG_dataset_resolution4_classnum2_perclassdim7_sample30'
RUN = '00000-MoLRG-uncond-ddpmpp-edm-gpus1-batch512-fp32'


def check_mixture(path):
    "Read a data file as trainMoLRG.py does, and check all that it relies on"
    data = torch.load(path, weights_only=True)
    assert list(data) == [
        *('basis', 'space_basis', 'data', 'class_num', 'sample_per_class', 'per_class_dim', 'resolution'),
        'conds',
    ]
    numbers = [data[name] for name in ('class_num', 'sample_per_class', 'per_class_dim', 'resolution')]
    assert numbers == [2, 30, 7, 4] and {type(number) for number in numbers} == {int}
    kinds = {name: (t.dtype, tuple(t.shape)) for name, t in data.items() if isinstance(t, torch.Tensor)}
    assert kinds == dict(
        basis=(torch.float32, (2, 48, 7)),
        space_basis=(torch.float32, (48, 48)),
        data=(torch.float32, (60, 4, 4, 3)),
        conds=(torch.int64, (60,)),
    )
    assert data['conds'].tolist() == [0] * 30 + [1] * 30
    whole = data['space_basis']
    assert (whole.T @ whole - torch.eye(48)).abs().max() < 1e-5
    for k in range(2):
        basis, x = data['basis'][k], data['data'].flatten(1)[data['conds'] == k]
        assert torch.equal(basis, whole[:, 7 * k : 7 * k + 7])
        inside = x @ basis  # standard normal, and nothing outside
        assert (inside @ basis.T - x).abs().max() < 1e-5 and 0.8 < inside.std() < 1.2


def check_training(folder, printed):
    check_mixture(folder / f'datasets/{NAME}.pt')
    run = folder / 'training' / NAME / RUN
    there = {path.name for path in run.iterdir()}
    assert {
        'training_options.json',
        'network-snapshot-000000.safetensors',
        'network-snapshot-000001.safetensors',
        'training-state-000001.safetensors',
        'stats.jsonl',
        'log.txt',
    } <= there
    options = json.loads((run / 'training_options.json').read_text())
    assert options['dataset_kwargs'] == dict(
        class_name='training.dataset.MoLRG',
        resolution=4,
        class_num=2,
        per_class_dim=7,
        sample_per_class=30,
        path='datasets',
        use_labels=False,
    )
    adam = dict(class_name='torch.optim.Adam', lr=0.001, betas=[0.9, 0.999], eps=1e-8)
    assert options['optimizer_kwargs'] == adam and options['augment_kwargs']['p'] == 0.12
    network = options['network_kwargs']
    assert network['class_name'] == 'training.networks.EDMPrecond' and network['model_type'] == 'SongUNet'
    assert (network['model_channels'], network['channel_mult'], network['dropout']) == (16, [2, 2, 2], 0.13)
    numbers = dict(batch_size=512, kimg_per_tick=50, snapshot_ticks=10, state_dump_ticks=500, seed=0)
    assert numbers.items() <= options.items() and options['ema_halflife_kimg'] == 500
    assert load_denoiser(run / 'network-snapshot-000001.safetensors').image_shape == (3, 4, 4)


def two_steps(patch):
    "Show a thousand images, not 6 millions"
    patch.setattr('difflow.training.ticks.steps_of', lambda *_: 2)


RUNS = {
    'S1 training on MoLRG': Run(
        {'sample_per_class': '30', 'embed_channels': '16'}, check=check_training, smaller=two_steps
    ),
    'S1 rank of a model': measured(),
    'S1 rank of EDM': measured(),
    'S1 rank of a class': measured(10),
}
