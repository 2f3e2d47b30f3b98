"""Published recipes on the command line: what `difflow train` hands to `train`."""

import numpy as np
import pytest

from difflow import DDPMDenoiser, load_images


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
    from difflow.data import write_mnist_m

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
        ('--epochs 4 --batch-size 20 --sample-every 0', None, 250, 'ddpm'),
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


def test_as_published_is_what_the_published_loops_do(asked):
    digits_on_grey()
    words = '--dataset mnist_m --arch UNetSmall --epochs 4 --batch-size 20 --sampling-steps 20'
    _, ours, mine = asked(words)
    _, settings, run = asked(f'{words} --as-published')
    assert (ours.levels, ours.ema_rampup) == ('spread', True) and 'averaged' not in mine['preview']
    assert (settings.levels, settings.ema_rampup, settings.seed) == ('independent', False, 112233)
    assert run['preview']['averaged'] is False
    assert run['preview']['row'] == ('UNetSmall_mnist_m-1000_steps-20-sampling_steps-class_condn_False.png')
    _, settings, _ = asked(f'{words} --as-published --levels spread --ema-rampup')  # the user's words count
    assert (settings.levels, settings.ema_rampup) == ('spread', True)
    small = '--data digits --arch ddpmpp --model-channels 16 --channel-mult 1 --num-res-blocks 1'
    _, settings, _ = asked(f'{small} --as-published')
    assert (settings.levels, settings.ema_rampup, settings.eps) == ('independent', True, 1e-8 / 64)
    assert asked(f'{small} --as-published')[1].seed != settings.seed
