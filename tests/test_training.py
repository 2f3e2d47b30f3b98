"""Training that is killed, and training that is shared: the same weights, the same losses."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SCRIPT = '''
import sys, time, numpy as np, torch
from torch import nn
from difflow.denoisers import EDMDenoiser
from difflow.noise import normal
from difflow.training import train
torch.set_num_threads(1)

class Affine(nn.Module):
    config = dict(image_size=2, in_channels=1)
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Dropout({dropout}), nn.Linear(16, 2))
    def forward(self, x, c_noise):
        factor, shift = self.layers(c_noise[:, None]).reshape(-1, 2, 1, 1, 1).unbind(1)
        return factor * x + shift

torch.manual_seed(0)
def slowly(step, loss): time.sleep({pause})
result = train(EDMDenoiser(Affine()), 0.5 * normal((64, 1, 2, 2)), steps=80, batch_size=16, lr=1e-2, out=sys.argv[1],
               save_every=7, progress=False, callback=slowly)
np.save(sys.argv[1] + '/losses.npy', result.losses)
'''


def start(folder, pause=0., dropout=0.2, launcher=(sys.executable,)):
    folder.mkdir(exist_ok=True)
    script = folder / 'script.py'
    script.write_text(SCRIPT.format(pause=pause, dropout=dropout))
    return subprocess.Popen([*launcher, str(script), str(folder)], env=os.environ | {'OMP_NUM_THREADS': '1'})


def weights(folder): return load_file(folder / 'training.safetensors')


def test_a_run_killed_twice_ends_with_the_same_weights(tmp_path):
    assert start(tmp_path / 'whole').wait(120) == 0
    for least in (14, 42):
        process = start(tmp_path / 'killed', pause=0.05)
        while not (tmp_path / 'killed/training.safetensors').exists() or steps(tmp_path / 'killed') < least: time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert 42 <= steps(tmp_path / 'killed') < 80
    assert start(tmp_path / 'killed').wait(120) == 0
    whole, killed = weights(tmp_path / 'whole'), weights(tmp_path / 'killed')
    assert whole.keys() == killed.keys()
    for name in whole: assert torch.equal(whole[name], killed[name]), name


def steps(folder):
    from safetensors import safe_open
    with safe_open(folder / 'training.safetensors', 'pt') as file: return int(file.metadata()['step'])


def test_two_processes_give_the_losses_of_one(tmp_path):
    assert start(tmp_path / 'one', dropout=0.).wait(120) == 0
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    assert start(tmp_path / 'two', dropout=0., launcher=torchrun).wait(300) == 0
    one, two = (np.load(tmp_path / name / 'losses.npy') for name in ('one', 'two'))
    np.testing.assert_allclose(one, two, rtol=1e-4)


@pytest.mark.parametrize('fields, message', [(dict(steps=0), 'steps must be in'), (dict(batch_size=4, accumulate=8), 'accumulate must be in 1..4'),
                                             (dict(lr=0.), 'lr must be in')])
def test_settings_out_of_range(fields, message):
    from difflow.training import Settings
    with pytest.raises(ValueError, match=message): Settings(**fields)
