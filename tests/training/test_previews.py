"""Sample grids while a network is trained: of the averaged weights, after the steps and by the walk that was asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from difflow.data.canvas import image_grid
from difflow.data.sets import load_images
from difflow.denoisers.discrete_time import DDPMDenoiser
from difflow.networks.unet import UNet
from difflow.runs.samples import minimal_walk
from difflow.samplers.steps import sample
from difflow.schedulers.scheduler import Scheduler
from difflow.training.loop import train

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


class Stop(Exception):
    pass


@pytest.fixture
def asked(monkeypatch, tmp_path):
    "Return what `difflow train` hands to `train`: (denoiser, settings, other arguments)"
    import difflow.training.loop
    from difflow.cli import root as cli

    monkeypatch.chdir(tmp_path)

    def asked(line):
        got = []

        def catch(denoiser, images, settings, **options):
            got.extend([denoiser, settings, options])
            raise Stop

        monkeypatch.setattr(difflow.training.loop, 'train', catch)
        with pytest.raises(Stop):
            cli.main(['train', *line.split()])
        return got

    return asked


def digits_on_grey(count=40):
    "Write a small MNIST-M, of 40 training images"
    from difflow.data.studies import write_mnist_m

    parts = {part: load_images('mnist5k', max_images=count, split=part) for part in ('train', 'test')}
    write_mnist_m('dataset', [np.full((40, 120, 3), 90, np.uint8)], parts)


def test_a_published_set_is_trained_by_the_published_recipe(asked):
    digits_on_grey()
    denoiser, settings, run = asked('--dataset mnist_m --class-cond --epochs 3 --local_rank 0')
    assert (settings.lr, settings.batch_size, settings.seed, settings.weight_decay, settings.ema_w) == (
        1e-4,
        128,
        112233,
        0.01,
        0.9995,
    )
    assert (
        settings.steps == 1 and run['sample_every'] == {1} and run['out'].name == 'trained_models'
    )  # 120 images are one batch
    assert (
        isinstance(denoiser, DDPMDenoiser) and denoiser.num_classes == 10 and len(denoiser.scheduler) == 1000
    )
    assert (
        denoiser.net.config['model_channels'],
        denoiser.net.config['num_res_blocks'],
        denoiser.net.config['dropout'],
    ) == (64, 3, 0.1)
    assert (
        run['preview']['sampler'] == 'ddpm'
        and run['preview']['scheduler'].timesteps.tolist() == np.linspace(0, 999, 250, dtype=int).tolist()
    )


@pytest.mark.parametrize(
    'words, after, levels, sampler',
    [
        ('--epochs 3 --batch-size 16', {3, 5, 8}, 250, 'ddpm'),
        ('--steps 7 --batch-size 16 --ddim --sampling_steps 20', {3, 5}, 20, 'ddim'),
        ('--epochs 4 --batch-size 20 --sample-epochs 2 --diffusion-steps 300', {4, 8}, 250, 'ddpm'),
        ('--epochs 4 --batch-size 20 --sample-every 3', 3, 250, 'ddpm'),
        ('--epochs 4 --batch-size 20 --sample-every 0', 0, 250, 'ddpm'),
    ],
)
def test_previews_of_a_published_recipe(words, after, levels, sampler, asked):
    digits_on_grey()
    denoiser, settings, run = asked(f'--dataset mnist_m --arch UNetSmall {words} --save-dir kept')
    assert run['sample_every'] == after and run['out'].name == 'kept'
    assert run['preview']['sampler'] == sampler and len(run['preview']['scheduler']) == levels
    assert len(denoiser.scheduler) == (300 if '300' in words else 1000)


def test_a_plain_network_has_no_previews_unless_asked(asked):
    small = '--data digits --steps 4 --model-channels 32 --channel-mult 1 --attention-resolutions 4'
    assert (
        asked(small)[2]['sample_every'] is None
        and asked(small)[2]['preview'] == {}
        and asked(small)[1].seed == 0
    )
    run = asked(f'{small} --sample-every 2 --ddim')[2]
    assert (run['sample_every'], run['preview']) == (2, dict(sampler='ddim'))
    digits_on_grey()
    assert asked('--dataset mnist_m --arch plain --steps 4 --attention-resolutions 7')[1].batch_size == 64
