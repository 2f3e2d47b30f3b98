"""Training that is killed, and training that is shared: the same weights, the same losses."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from difflow.data.sets import load_images
from difflow.denoisers.preconditioned import EDMDenoiser, VEDenoiser, VPDenoiser
from difflow.networks.song_unet import SongUNet
from difflow.training.augmentation import Augmentation
from difflow.training.loop import EMA, _draw, batches, train

SCRIPT = """
import sys, time, numpy as np, torch
from torch import nn
from difflow.denoisers.preconditioned import EDMDenoiser
from difflow.noise import normal
from difflow.training.loop import train
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
result = train(EDMDenoiser(Affine()), 0.5 * normal((64, 1, 2, 2)), steps=80, batch_size=16, lr=1e-2, out=sys.argv[1], accumulate={accumulate},
               save_every=7, progress=False, callback=slowly)
np.save(sys.argv[1] + '/losses.npy', result.losses)
"""


def start(folder, pause=0.0, dropout=0.2, launcher=(sys.executable,), accumulate=1):
    folder.mkdir(exist_ok=True)
    script = folder / 'script.py'
    script.write_text(SCRIPT.format(pause=pause, dropout=dropout, accumulate=accumulate))
    return subprocess.Popen([*launcher, str(script), str(folder)], env=os.environ | {'OMP_NUM_THREADS': '1'})


def weights(folder):
    return load_file(folder / 'training.safetensors')


def test_a_run_killed_twice_ends_with_the_same_weights(tmp_path):
    assert start(tmp_path / 'whole').wait(120) == 0
    for least in (14, 42):
        process = start(tmp_path / 'killed', pause=0.05)
        while not (tmp_path / 'killed/training.safetensors').exists() or steps(tmp_path / 'killed') < least:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert 42 <= steps(tmp_path / 'killed') < 80
    assert start(tmp_path / 'killed').wait(120) == 0
    whole, killed = weights(tmp_path / 'whole'), weights(tmp_path / 'killed')
    assert whole.keys() == killed.keys()
    for name in whole:
        assert torch.equal(whole[name], killed[name]), name


def steps(folder):
    from safetensors import safe_open

    with safe_open(folder / 'training.safetensors', 'pt') as file:
        return int(file.metadata()['step'])


@pytest.mark.parametrize('accumulate', [1, 2])
def test_two_processes_give_the_losses_of_one(accumulate, tmp_path):
    assert start(tmp_path / 'one', dropout=0.0).wait(120) == 0
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    assert start(tmp_path / 'two', dropout=0.0, launcher=torchrun, accumulate=accumulate).wait(300) == 0
    one, two = (np.load(tmp_path / name / 'losses.npy') for name in ('one', 'two'))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def song(augment_dim=9):
    "A DDPM++ of 8x8 images with a head that answers"
    torch.manual_seed(0)
    return SongUNet(
        8,
        1,
        1,
        augment_dim=augment_dim,
        model_channels=16,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        dropout=0.1,
    )


EDM = dict(
    steps=6,
    batch_size=8,
    lr=2e-3,
    lr_rampup=30.0,
    grad_clip=math.inf,
    cooldown=0.0,
    warmup=0,
    eps=1e-8 / 64,
    progress=False,
)


@pytest.mark.parametrize('kind', [VPDenoiser, VEDenoiser, EDMDenoiser])
def test_augmented_training_tells_the_network_and_resumes(kind, tmp_path):
    heard, images = [], load_images('digits', max_images=64)

    def listening():
        net = song()
        net.map_augment.register_forward_hook(lambda layer, told, answer: heard.append(told[0].clone()))
        return kind(net)

    whole = train(listening(), images, augment=0.5, out=tmp_path / 'whole', **EDM)
    told, heard[:] = torch.cat(heard), []
    assert (
        told.shape == (48, 9)
        and (told[:, 1:] != 0).any(0).all()
        and 0.2 < (told[:, 0] != 0).float().mean() < 0.8
    )

    def stop(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(listening(), images, augment=0.5, out=tmp_path / 'half', callback=stop, save_every=2, **EDM)
    heard.clear()
    resumed = train(listening(), images, augment=0.5, out=tmp_path / 'half', **EDM)
    assert torch.equal(torch.cat(heard), told[32:])  # four steps were made, and saved when it was stopped
    for name, weight in whole.denoiser.state_dict().items():
        assert torch.equal(weight, resumed.denoiser.state_dict()[name]), name
    assert np.array_equal(whole.losses, resumed.losses)


def test_what_is_told_changes_the_answer_and_zeros_do_not():
    net, x = song().eval(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        denoiser, zeros = EDMDenoiser(net), Augmentation(0.0)(x)[1]
        free, told = (
            denoiser(x, 1.0),
            denoiser(x, 1.0, augment_labels=Augmentation(1.0)(x, torch.Generator().manual_seed(0))[1]),
        )
        assert not zeros.any()
        torch.testing.assert_close(denoiser(x, 1.0, augment_labels=zeros), free, atol=1e-6, rtol=1e-5)
        assert (told - free).abs().max() > 1e-3
    with pytest.raises(ValueError, match='needs augment_dim=9, got 0'):
        train(EDMDenoiser(song(0)), x, augment=0.1, **EDM)


def test_augmented_batches_may_be_split():
    images = load_images('digits', max_images=64)
    one, four = (
        train(VPDenoiser(song()), images, augment=0.5, accumulate=n, **EDM | dict(steps=1)) for n in (1, 4)
    )
    np.testing.assert_allclose(one.losses, four.losses, rtol=1e-4)


def test_a_step_is_that_of_edm():
    "One Adam step on the summed loss with its eps, learning rate and gradients that are not finite, against ours"
    net, x0 = torch.nn.Conv2d(1, 1, 3, padding=1), torch.randn(4, 1, 2, 2).clamp(-1, 1)

    class Denoises(EDMDenoiser):
        def predict(self, x, sigma, labels=None, check=True):
            return self.net(x), None

    mine = Denoises(deepcopy(net))
    rate = 2 * 4 / 10  # of the third step, two batches of four after the start, of a ramp of ten images
    result = train(
        mine,
        x0,
        steps=3,
        batch_size=4,
        lr=0.01,
        betas=(0.9, 0.999),
        warmup=0,
        cooldown=0.0,
        lr_rampup=10.0,
        eps=1e-3 / 4,
        grad_clip=math.inf,
        ema_w=0.0,
        progress=False,
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.01, eps=1e-3)
    for step, indices in enumerate(batches(4, 4, 0, 0, 3)):
        random = _draw(step, range(4), 4, (1, 2, 2))
        sigma = mine.sigmas_for(random.u.double())
        x = x0[indices] + sigma[:, None, None, None].float() * random.noise
        loss = (mine.weight(sigma).float()[:, None, None, None] * (net(x) - x0[indices]) ** 2).sum() / 4
        for group in optimizer.param_groups:
            group['lr'] = 0.01 * min(step * 4 / 10, 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.01 * rate)
    for a, b in zip(result.raw.net.parameters(), net.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_gradients_that_are_not_finite_do_not_spoil_a_run():
    class Spoilt(EDMDenoiser):
        def predict(self, x, sigma, labels=None, check=True):
            return self.net(x) / (x * 0), None

    images = torch.randn(8, 1, 2, 2).clamp(-1, 1)
    result = train(Spoilt(torch.nn.Conv2d(1, 1, 1)), images, **EDM | dict(steps=2))
    assert all(p.isfinite().all() for p in result.raw.parameters())


def test_averages():
    model = torch.nn.Linear(1, 1)
    constant, growing = EMA(model, 0, 0.9995, rampup=False), EMA(model, 0, 0.9995)
    assert (
        constant.keep(0, 128) == 0.9995
        and growing.keep(0, 128) == 0.1
        and growing.keep(128 * 100_000, 128) == 0.9995
    )
    assert EMA(model, 500_000).keep(0, 512) == 0 and EMA(model, 500_000, rampup=False).keep(
        0, 512
    ) == 0.5 ** (512 / 500_000)


def test_averages_of_buffers():
    "Statistics are averaged, counts are copied, and what is infinite stays"
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer('mask', torch.tensor([0.0, -math.inf]))
    ema = EMA(model, 0, 0.75, rampup=False)
    with torch.no_grad():
        model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model, 128, 128)
    assert ema.model.running_mean.tolist() == [1.0, 1.0] and ema.model.num_batches_tracked == 7
    assert ema.model.mask.tolist() == [0.0, -math.inf]


def test_old_states_still_resume(tmp_path):
    "A state from before some settings existed is one with their defaults"
    from safetensors import safe_open
    from safetensors.torch import save_file

    fields = dict(steps=4, batch_size=4, progress=False, out=tmp_path)
    denoiser, x0 = EDMDenoiser(song(0)), torch.randn(8, 1, 8, 8).clamp(-1, 1)
    whole = train(denoiser, x0, **fields)
    file = tmp_path / 'training.safetensors'
    with safe_open(file, 'pt') as f:
        metadata, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    settings = {
        k: v
        for k, v in json.loads(metadata['settings']).items()
        if k not in ('eps', 'augment', 'lr_rampup', 'ema_w', 'ema_rampup')
    }
    save_file(tensors, file, metadata | dict(settings=json.dumps(settings)))
    again = train(denoiser, x0, **fields)
    assert np.array_equal(whole.losses, again.losses)
    with pytest.raises(ValueError, match='augment 0.0 -> 0.5'):
        train(EDMDenoiser(song()), x0, augment=0.5, **fields)


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(steps=0), 'steps must be in'),
        (dict(batch_size=4, accumulate=8), 'accumulate must be in 1..4'),
        (dict(lr=0.0), 'lr must be in'),
    ],
)
def test_settings_out_of_range(fields, message):
    from difflow.training.loop import Settings

    with pytest.raises(ValueError, match=message):
        Settings(**fields)
