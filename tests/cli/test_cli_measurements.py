"""`difflow measure` as people get it: what the library says, going on, shares, and errors in one line."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from option_changes import call, check_change, command_options

from difflow import (
    EDMDenoiser,
    PatchDenoiser,
    Scheduler,
    UNet,
    denoiser_agreement,
    intrinsic_dimension,
    load_denoiser,
    load_images,
    log_likelihood,
    normal,
    posterior_covariance,
    sample,
    save,
    susceptibility,
    sweep,
)
from difflow.cli.instruments import _INSTRUMENTS, _chi
from difflow.noise import Stream
from difflow.sweeps import even_levels

LINE = 'measure net.safetensors --data digits --sigmas 2,0.5 --steps 4 --out m.npz'


def save_network(path, seed=0):
    "Write an untrained network of 8x8 images whose output follows its input"
    torch.manual_seed(seed)
    net = UNet(8, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), patch_size=2)
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    save(EDMDenoiser(net), path, card={'steps': 0})


@pytest.fixture
def difflow(difflow_here, tmp_path):
    "Run a line in this process, beside a network"
    save_network(tmp_path / 'net.safetensors')
    return difflow_here


def rows_of(difflow, what, more=''):
    "Return {(quantity, sigma): value} of a line"
    code, _, err = difflow(f'{LINE} --what {what} {more} --json rows.json')
    assert code == 0, err
    return {
        (row['quantity'], row['sigma']): row['value'] for row in json.loads(Path('rows.json').read_text())
    }


def test_values_are_those_of_the_library(difflow):
    "Each image alone, with the noise of its own seed"
    rows = rows_of(difflow, 'likelihood,covariance,dimension,susceptibility', '--n 3 --seed 7')
    denoiser = load_denoiser('net.safetensors')
    x0 = load_images('digits', split='test').tensor(slice(0, 3))
    nats = log_likelihood(denoiser, x0, seeds=[7, 8, 9]).nats
    assert abs(rows['log likelihood', None] - nats.mean().item()) < 1e-3
    noise = torch.cat([normal((1, 1, 8, 8), seed, stream=Stream.FORWARD) for seed in (7, 8, 9)])
    for sigma in (0.5, 2.0):
        found = posterior_covariance(denoiser, x0 + sigma * noise, sigma)
        error = (found.mean - x0).double().square().sum()
        assert abs(rows['realised over expected', sigma] / (error / found.trace.sum()).item() - 1) < 1e-3
        dimension = intrinsic_dimension(denoiser, x0, sigma).mean().item()
        assert abs(rows['dimension', sigma] - dimension) < 1e-3
    result = sweep(denoiser, x0, even_levels(4, 13)[1:], 4, seeds=[7, 8, 9])
    chi = susceptibility(result).chi
    ours = [rows['susceptibility', float(sigma)] for sigma in result.sigmas]
    assert np.allclose(ours, chi, rtol=1e-3)


def test_two_models_and_what_they_make_of_noise(difflow):
    rows = rows_of(difflow, 'flow,gaussian', '--n 2 --teacher digits')
    ours, teacher = load_denoiser('net.safetensors'), load_denoiser('digits')
    walk = dict(sampler='dpmpp_2m', scheduler=Scheduler.karras(4, 0.002, 80.0), progress=False)
    gap = [sample(d, 2, seeds=[0, 1], **walk) for d in (ours, teacher)]
    truth = (gap[0] - gap[1]).square().sum((1, 2, 3)).mean().sqrt().item()
    assert abs(rows['flow distance', None] / truth - 1) < 1e-3
    shares = [v for (name, _), v in rows.items() if name == 'explained by the Gaussian']
    assert len(shares) == 4 and max(shares) <= 1


def test_agreement_is_that_of_the_library(difflow):
    rows = rows_of(difflow, 'agreement', '--n 2 --patch 3 --seed 7')
    images, train = (load_images('digits', split=split) for split in ('test', 'train'))
    patch = PatchDenoiser(train, patch=3)
    found = denoiser_agreement(
        patch, load_denoiser('net.safetensors'), images.tensor(slice(0, 2)), [0.5, 2.0], seeds=[7, 8]
    )
    for sigma, value in zip((0.5, 2.0), found.r2):
        assert abs(rows['explained by patch', sigma] - value) < 1e-4
    assert len(rows) == 8 and max(rows.values()) <= 1


def test_another_line_in_the_same_process_has_denoisers_of_its_own(difflow, monkeypatch):
    "What was made for the line before, of the very same set, is not taken for other windows"
    monkeypatch.setattr('difflow.data.sets.load_images', cache(load_images))
    found = [
        rows_of(difflow, 'agreement', f'--n 1 --out {i}.npz --patch {k}') for i, k in enumerate((3, 1, 3))
    ]
    patch = [rows['explained by patch', 2.0] for rows in found]
    assert patch[0] == patch[2] != patch[1]


def test_blocks_are_counted():
    blocks = np.random.default_rng(0).normal(size=(50, 3, 4)).repeat(5, axis=2)
    independent = np.eye(4)[None].repeat(3, 0).transpose(1, 0, 2)  # one site changes at a time
    assert np.allclose(_chi(dict(changes=independent)), 0)  # exactly one always does: the sum is constant
    one = np.random.default_rng(1).normal(size=(4000, 1, 1)).repeat(5, 2)
    assert np.allclose(_chi(dict(changes=one)), 5)
    assert np.allclose(_chi(dict(changes=blocks)), susceptibility(blocks.transpose(1, 0, 2)).chi)


def test_more_images_and_more_instruments_are_added(difflow, monkeypatch):
    asked = []
    for name in ('dimension', 'covariance'):
        instrument = _INSTRUMENTS[name]
        measure = lambda subject, i, made=instrument.measure, name=name: (
            asked.append((name, i)) or made(subject, i)
        )
        monkeypatch.setitem(_INSTRUMENTS, name, instrument._replace(measure=measure))
    assert difflow(f'{LINE} --what dimension --n 2')[0] == 0
    assert difflow(f'{LINE} --what dimension,covariance --n 3')[0] == 0
    wanted = [('dimension', i) for i in range(3)] + [('covariance', i) for i in range(3)]
    assert asked == wanted
    grown = Path('m.npz').read_bytes()
    assert difflow(f'{LINE} --what dimension,covariance --n 3 --restart')[0] == 0
    assert Path('m.npz').read_bytes() == grown and len(asked) == 12
    for more, words in (('--seed 1', 'seed 0 -> 1'), ('--sigmas 1', 'sigmas [0.5, 2.0] -> [1.0]')):
        code, _, err = difflow(f'{LINE} --what dimension --n 2 {more}')
        assert code == 2 and words in err and '--restart' in err


def test_processes_share_the_images(difflow, monkeypatch):
    assert difflow(f'{LINE} --what dimension --n 3'.replace('m.npz', 'whole.npz'))[0] == 0
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, ends in (('1', False), ('0', True)):
        monkeypatch.setenv('RANK', rank)
        code, out, err = difflow(f'{LINE} --what dimension --n 3')
        assert code == 0, err
        assert Path('m.npz').exists() == ends and ('sigma 0.5' in out) == ends
    assert Path('m.npz').read_bytes() == Path('whole.npz').read_bytes()


@pytest.mark.parametrize(
    'words, error',
    [
        ('--what rank', "--what 'rank': allowed are likelihood, covariance"),
        ('--what flow', '--what flow: give --teacher'),
        ('--what flow --teacher mnist', '--teacher: its images are (1, 28, 28)'),
        ('--what dimension --sigmas 0.5,x', "--sigmas '0.5,x': not numbers"),
        ('--what dimension --sigmas 0', 'sigma must be'),
        ('--n 361', '--n 361: allowed is 1..360'),
        ('--method ode', "--method 'ode': allowed are flow, mmse"),
        ('--what agreement --patch 4', 'patch must be'),
        ('--out m.csv', 'the name must end in .npz'),
    ],
)
def test_errors_are_one_line(words, error, difflow):
    code, out, err = difflow(f'{LINE} {words}')
    assert code == 2 and error in err and err.count('\n') == 1
    assert not Path('m.npz').exists()


# An option changed between two runs

SMALL = f'{LINE} --what dimension --n 2'
CHANGES = {
    'model': None,  # another file of the name: below
    'data': ('mnist5k', 'images'),
    'split': ('train', 'images'),
    'what': None,  # is added: above
    'n': '3',
    'sigmas': '1',
    'reference': 'test',
    'teacher': 'digits',
    'patch': '3',
    'method': 'mmse',
    'probes': '4',
    'steps': '5',
    'seed': '1',
    'out': 'other.npz',
    'restart': '',
    'device': 'cpu',
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A folder with a network, and one in which the line has run, too"
    inputs = tmp_path_factory.mktemp('inputs') / 'here'
    inputs.mkdir()
    save_network(inputs / 'net.safetensors')
    finished = shutil.copytree(inputs, inputs.with_name('finished'))
    assert call(SMALL, finished)[0] == 0
    return inputs, finished


@pytest.mark.parametrize('option', command_options('measure'))
def test_an_option_changed_between_two_runs(option, folders, tmp_path):
    inputs, finished = folders
    check_change(option, SMALL, CHANGES, finished, tmp_path, inputs)


def test_another_network_of_the_name(folders, tmp_path):
    here = shutil.copytree(folders[1], tmp_path / 'here')
    save_network(here / 'net.safetensors', seed=1)
    code, printed = call(SMALL, here)
    assert code == 2 and 'm.npz is of another run: model ' in printed
