"""Training that is killed, shared, in other precisions, and watched: the same weights, the same losses."""

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
from PIL import Image
from safetensors.torch import load_file
from training_networks import DENOISERS, QUICK, song

from difflow import (
    DDPMDenoiser,
    EDMDenoiser,
    Scheduler,
    UNet,
    VEDenoiser,
    VPDenoiser,
    load_images,
    sample,
    train,
)
from difflow.data import image_grid
from difflow.runs import minimal_walk
from difflow.training import Augmentation, Settings, batches
from difflow.training.loop import _accelerator_in, _Run
from difflow.training.objective import _draw

SCRIPT = """
import sys, time, numpy as np, torch
from torch import nn
from difflow import EDMDenoiser, normal, train
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
result = train(EDMDenoiser(Affine()), 0.5 * normal((64, 1, 2, 2)), steps=80, batch_size=16, lr=1e-2,
               out=sys.argv[1], accumulate={accumulate}, save_every=7, progress=False, callback=slowly)
np.save(sys.argv[1] + '/losses.npy', result.losses)
"""


def start(folder, pause=0.0, dropout=0.2, launcher=(sys.executable,), accumulate=1):
    folder.mkdir(exist_ok=True)
    script = folder / 'script.py'
    script.write_text(SCRIPT.format(pause=pause, dropout=dropout, accumulate=accumulate))
    return subprocess.Popen([*launcher, str(script), str(folder)], env=os.environ | {'OMP_NUM_THREADS': '1'})


def test_ranks_of_slurm_train_together(tmp_path):
    "Two tasks of `srun`, told their numbers by Slurm alone, are one training"
    slurm = {'SLURM_NTASKS': '2', 'SLURM_JOB_ID': str(os.getpid()), 'OMP_NUM_THREADS': '1'}
    free = {k: v for k, v in os.environ.items() if not k.startswith(('RANK', 'WORLD', 'MASTER', 'SLURM'))}
    words = (
        'train --data digits --steps 3 --batch-size 8 --model-channels 32 --channel-mult 1 '
        '--num-res-blocks 1 --attention-resolutions 8 --dropout 0.1'
    ).split()
    here = lambda folder: [sys.executable, '-m', 'difflow', *words, '--out', str(tmp_path / folder)]
    ranks = [{'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)} | slurm for i in range(2)]
    tasks = [subprocess.Popen(here('two'), env=free | rank) for rank in ranks]
    assert [task.wait(300) for task in tasks] == [0, 0]
    assert subprocess.run(here('one'), env=free).returncode == 0
    one, two = (weights(tmp_path / name)['losses'] for name in ('one', 'two'))
    np.testing.assert_allclose(one, two, rtol=1e-5)


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
    "With dropout, too: what is left is the order of float32 sums, 80 steps long"
    assert start(tmp_path / 'one', dropout=0.1).wait(120) == 0
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    assert start(tmp_path / 'two', dropout=0.1, launcher=torchrun, accumulate=accumulate).wait(300) == 0
    one, two = (np.load(tmp_path / name / 'losses.npy') for name in ('one', 'two'))
    np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize('make', [lambda: EDMDenoiser(song(0)), lambda: DENOISERS['edm']()])
def test_dropout_does_not_depend_on_how_a_batch_is_split(make):
    images = load_images('digits', max_images=64)
    fields = dict(steps=1, batch_size=8, progress=False)
    denoiser = make()
    for layer in denoiser.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.3
    torch.nn.init.normal_(list(denoiser.parameters())[-2], std=0.05)  # a network that answers
    one, four = (train(denoiser, images, accumulate=n, **fields) for n in (1, 4))
    np.testing.assert_allclose(one.losses, four.losses, rtol=5e-6)
    other = train(denoiser, images, seed=1, **fields)
    assert abs(other.losses - one.losses).max() > 1e-4


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
def test_augmentation_labels_reach_the_network_and_it_resumes(kind, tmp_path):
    heard, images = [], load_images('digits', max_images=64)

    def listening():
        net = song()
        net.map_augment.register_forward_hook(lambda layer, labels, answer: heard.append(labels[0].clone()))
        return kind(net)

    whole = train(listening(), images, augment=0.5, out=tmp_path / 'whole', **EDM)
    labels, heard[:] = torch.cat(heard), []
    assert (
        labels.shape == (48, 9)
        and (labels[:, 1:] != 0).any(0).all()
        and 0.2 < (labels[:, 0] != 0).float().mean() < 0.8
    )

    def stop(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(listening(), images, augment=0.5, out=tmp_path / 'half', callback=stop, save_every=2, **EDM)
    heard.clear()
    resumed = train(listening(), images, augment=0.5, out=tmp_path / 'half', **EDM)
    assert torch.equal(torch.cat(heard), labels[32:])  # four steps were made, and saved when it was stopped
    for name, weight in whole.denoiser.state_dict().items():
        assert torch.equal(weight, resumed.denoiser.state_dict()[name]), name
    assert np.array_equal(whole.losses, resumed.losses)


def test_augmentation_labels_change_the_answer_and_zeros_do_not():
    net, x = song().eval(), torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        denoiser, zeros = EDMDenoiser(net), Augmentation(0.0)(x)[1]
        free, labels = (
            denoiser(x, 1.0),
            denoiser(x, 1.0, augment_labels=Augmentation(1.0)(x, torch.Generator().manual_seed(0))[1]),
        )
        assert not zeros.any()
        torch.testing.assert_close(denoiser(x, 1.0, augment_labels=zeros), free, atol=1e-6, rtol=1e-5)
        assert (labels - free).abs().max() > 1e-3
    with pytest.raises(ValueError, match='needs augment_dim=9, got 0'):
        train(EDMDenoiser(song(0)), x, augment=0.1, **EDM)


def test_augmented_batches_may_be_split():
    images = load_images('digits', max_images=64)
    one, four = (
        train(VPDenoiser(song()), images, augment=0.5, accumulate=n, **EDM | dict(steps=1)) for n in (1, 4)
    )
    np.testing.assert_allclose(one.losses, four.losses, rtol=1e-4)


def test_a_step_is_that_of_edm():
    "One Adam step on the summed loss with its eps, learning rate and infinite gradients, against ours"
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
            return (self.net(x) * 0).sqrt(), None  # 0, and its slope is infinite

    images = torch.randn(8, 1, 2, 2).clamp(-1, 1)
    result = train(Spoilt(torch.nn.Conv2d(1, 1, 1)), images, **EDM | dict(steps=2))
    assert all(p.isfinite().all() for p in result.raw.parameters())


class SpoiltAt(EDMDenoiser):
    "Answers with NaN from a step on"

    calls, spoilt = 0, 5

    def predict(self, x, sigma, labels=None, check=True):
        self.calls += 1
        return self.net(x) * (float('nan') if self.calls > self.spoilt else 1.0), None


@pytest.mark.parametrize('clip', [1.0, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_kept(clip, tmp_path):
    images = torch.randn(8, 1, 2, 2).clamp(-1, 1)
    fields = dict(steps=60, batch_size=4, grad_clip=clip, progress=False, save_every=2, out=tmp_path)
    with pytest.raises(ValueError, match=r'step 5 of 0..59: its loss is nan; .* keeps the last good state'):
        train(SpoiltAt(torch.nn.Conv2d(1, 1, 1)), images, **fields)
    assert [p.name for p in tmp_path.iterdir()] == ['training.safetensors']
    kept = load_file(tmp_path / 'training.safetensors')
    assert len(kept['losses']) == 4 and all(tensor.isfinite().all() for tensor in kept.values())
    with pytest.raises(ValueError, match=r'step 5 of 0..59'):  # found at once without a folder, too
        train(SpoiltAt(torch.nn.Conv2d(1, 1, 1)), images, **fields | dict(out=None))


@pytest.mark.cuda
@pytest.mark.parametrize('precision', ['no', 'bf16'])
@pytest.mark.parametrize('kind', DENOISERS)
def test_a_step_does_not_wait_for_the_gpu(kind, precision):
    images = load_images('digits', max_images=32)
    run = _Run(
        _accelerator_in(precision), DENOISERS[kind](), images, Settings(steps=9, batch_size=8), None, False
    )
    x0, labels = images.tensor(range(8)).cuda(), images.labels[:8].cuda()
    for step in range(3):
        run.step(step, x0, labels)
    torch.cuda.set_sync_debug_mode('error')
    try:
        run.step(3, x0, labels)
    finally:
        torch.cuda.set_sync_debug_mode('default')


def test_precisions_follow_each_other_in_one_process():
    images = load_images('digits', max_images=64)
    whole = train(DENOISERS['edm'](), images, **QUICK)
    half = train(DENOISERS['edm'](), images, mixed_precision='bf16', **QUICK)
    again = train(DENOISERS['edm'](), images, **QUICK)
    assert np.array_equal(whole.losses, again.losses) and not np.array_equal(whole.losses, half.losses)
    np.testing.assert_allclose(half.losses, whole.losses, rtol=0.05)  # bfloat16 has 8 bits
    for name, weight in half.raw.state_dict().items():
        assert weight.dtype == whole.raw.state_dict()[name].dtype


def test_bf16_resumes_exactly(tmp_path):
    images, fields = load_images('digits', max_images=64), dict(mixed_precision='bf16', **QUICK)

    def stop(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    whole = train(DENOISERS['edm'](), images, out=tmp_path / 'whole', **fields)
    with pytest.raises(KeyboardInterrupt):
        train(DENOISERS['edm'](), images, out=tmp_path / 'half', callback=stop, **fields)
    resumed = train(DENOISERS['edm'](), images, out=tmp_path / 'half', **fields)
    assert np.array_equal(whole.losses, resumed.losses)


@pytest.mark.parametrize('precision', ['fp8', 'half', 'fp16'])
def test_unknown_precisions_are_refused_before_any_work(precision, tmp_path):
    if precision == 'fp16' and torch.cuda.is_available():
        pytest.skip('a GPU computes in fp16')
    with pytest.raises(ValueError, match=f"mixed_precision must be one of .*'bf16'.*, got '{precision}'"):
        train(
            DENOISERS['edm'](),
            load_images('digits', max_images=8),
            mixed_precision=precision,
            out=tmp_path / 'run',
            **QUICK,
        )
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('seed', [2**40, 2**63 - 1])
def test_large_seeds_train(seed):
    result = train(
        DENOISERS['edm'](), load_images('digits', max_images=32), seed=seed, **QUICK | dict(steps=2)
    )
    assert np.isfinite(result.losses).all()


def test_settings_and_fields_together_are_refused():
    with pytest.raises(ValueError, match='either settings or its fields by name, got settings and steps, lr'):
        train(DENOISERS['edm'](), load_images('digits', max_images=8), Settings(steps=1), steps=2, lr=1.0)


def network(classes=None):
    torch.manual_seed(0)
    net = UNet(
        8,
        1,
        32,
        1,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
        patch_size=2,
        num_classes=classes,
    )
    torch.nn.init.normal_(net.out[2].weight, std=0.05)
    return DDPMDenoiser(net, Scheduler.cosine(100))


def grid_of(denoiser, walk):
    labels = None if denoiser.num_classes is None else torch.arange(64) % denoiser.num_classes
    images = sample(denoiser, (64, 1, 8, 8), labels=labels, progress=False, **walk)
    return np.array(image_grid(images.clamp(-1, 1), columns=10))


@pytest.mark.parametrize('walk', [None, dict(sampler='ddim', steps=4), 'published'])
def test_previews_show_the_averaged_weights(walk, tmp_path):
    denoiser, kept = network(10), {}
    if walk == 'published':
        walk = dict(sampler='ddpm', steps=3, scheduler=minimal_walk(denoiser, 3))
    result = train(
        denoiser,
        load_images('digits', max_images=40),
        out=tmp_path,
        steps=5,
        batch_size=8,
        lr=0.02,
        warmup=0,
        ema_w=0.7,
        sample_every={2, 5},
        snapshot_every=1,
        preview=walk,
        progress=False,
        snapshot=lambda step, averaged: kept.update({step: grid_of(averaged, walk or {})}),
    )
    assert sorted(p.name for p in tmp_path.glob('*.png')) == ['samples_000002.png', 'samples_000005.png']
    for step in (2, 5):
        assert np.array_equal(np.array(Image.open(tmp_path / f'samples_{step:06d}.png')), kept[step])
    last = np.array(Image.open(tmp_path / 'samples_000005.png'))
    assert np.array_equal(last, grid_of(result.denoiser, walk or {}))
    assert (
        last.astype(int) - grid_of(result.raw, walk or {})
    ).__abs__().mean() > 2  # the raw weights draw other images
