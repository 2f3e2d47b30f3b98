"""improved-diffusion: 4000 steps named as 1000, its old attention, its models by name and by shape."""

import warnings

import numpy as np
import pytest
import torch

from difflow import UNet, load_denoiser
from difflow.checkpoints.catalogue import _PUBLISHED_FILES
from difflow.checkpoints.guided_unets import _plan_guided
from difflow.denoisers.discrete_time import p_mean_variance
from golden import FIXTURES, fill, wave

SMALL = dict(image_size=8, model_channels=32, out_channels=6, num_res_blocks=1, channel_mult=(1, 2),
             attention_resolutions=(4,))  # fmt: skip
PUBLISHED = {  # as in its README
    'CIFAR-10': (
        dict(image_size=32, num_res_blocks=3, attention_resolutions=(16, 8)),
        dict(name='cosine', options=dict(n=4000)),
        True,
        4,
    ),
    'ImageNet-64': (
        dict(image_size=64, num_res_blocks=3, attention_resolutions=(16, 8)),
        dict(name='cosine', options=dict(n=4000)),
        True,
        4,
    ),
    'ImageNet-64 class-conditional': (
        dict(
            image_size=64,
            num_res_blocks=3,
            attention_resolutions=(16, 8),
            model_channels=192,
            num_classes=1000,
        ),
        dict(name='cosine', options=dict(n=4000)),
        False,
        4,
    ),
    'LSUN bedroom': (
        dict(image_size=256, attention_resolutions=(16,), use_scale_shift_norm=False, num_heads=1),
        dict(name='linear', options=dict(n=1000)),
        False,
        1,
    ),
}


def close(x, expected):
    assert (x - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    'kind, told',
    [
        ('hybrid', dict(schedule='cosine', diffusion_steps=4000, rescale_timesteps=True)),
        ('cond', dict(schedule='cosine', diffusion_steps=4000, rescale_timesteps=False, num_classes=5)),
        (
            'bedroom',
            dict(schedule='linear', rescale_timesteps=False, num_heads=1, use_scale_shift_norm=False),
        ),
    ],
)
def test_numbers_are_those_of_its_own_sampler(kind, told, tmp_path):
    of_network = {n: told[n] for n in ('num_classes', 'num_heads', 'use_scale_shift_norm') if n in told}
    torch.save(fill(UNet(**SMALL | of_network)).state_dict(), tmp_path / 'ema_0.9999_500000.pt')
    told = dict(image_size=8, num_heads=4, use_new_attention_order=False, prediction='eps') | told
    denoiser = load_denoiser(tmp_path / 'ema_0.9999_500000.pt', **told)
    x0, mean, log_variance = torch.from_numpy(np.load(FIXTURES / 'other_trainers.npz')[f'iddpm_{kind}'])
    steps = len(denoiser.scheduler.sigmas)
    t, labels = torch.tensor([steps // 3, steps - steps // 4]), torch.tensor([1, 4])
    with torch.inference_mode():
        labels = labels if kind == 'cond' else None
        found = p_mean_variance(denoiser, wave((2, 3, 8, 8)), t, labels, clip=False)
    close(found['pred_xstart'], x0)
    close(found['mean'], mean)
    close(found['log_variance'], log_variance)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_are_known_by_their_shapes(name):
    options, scheduler, rescale, heads = PUBLISHED[name]
    with torch.device('meta'):
        net = UNet(**dict(out_channels=6) | options)
    plan = _plan_guided(net.state_dict(), {})
    assert plan.card == {'model': f'improved-diffusion {name}'} and plan.missing == []
    assert plan.options['scheduler'] == scheduler and plan.options['rescale_timesteps'] is rescale
    assert (plan.options['prediction'], plan.options['variance']) == ('eps', 'learned_range')
    with torch.device('meta'):
        again = UNet(**plan.config)
    assert again.config['num_heads'] == heads and not again.config['use_new_attention_order']
    shown = 'dropout', 'use_new_attention_order'
    assert {n: v for n, v in again.config.items() if n not in shown} == {
        n: v for n, v in net.config.items() if n not in shown
    }
    assert {'rescale_timesteps', 'schedule', 'diffusion_steps'} <= plan.assumed.keys()


def test_the_caller_is_right_about_a_network_of_published_shape():
    with torch.device('meta'):
        net = UNet(32, out_channels=6, num_res_blocks=3, attention_resolutions=(16, 8))
    plan = _plan_guided(net.state_dict(), dict(diffusion_steps=1000, rescale_timesteps=False))
    assert plan.options['scheduler']['options'] == {'n': 1000} and not plan.options['rescale_timesteps']
    assert 'rescale_timesteps' not in plan.assumed


def test_published_files_have_names():
    names = [name for name in _PUBLISHED_FILES if name.startswith('iddpm-')]
    assert len(names) == 7
    for name in names:
        url = _PUBLISHED_FILES[name].url
        assert url.startswith('https://openaipublic.blob.core.windows.net/diffusion/march-2021/')


@pytest.mark.parametrize('rescale, time', [(True, 750.0), (False, 3000.0), (None, 3000.0)])
def test_other_numbers_of_steps_are_told_or_said(rescale, time, tmp_path):
    torch.save(fill(UNet(**SMALL)).state_dict(), tmp_path / 'm.pt')
    told = dict(
        image_size=8,
        num_heads=4,
        use_new_attention_order=False,
        schedule='linear',
        diffusion_steps=4000,
        prediction='eps',
    )
    if rescale is not None:
        told['rescale_timesteps'] = rescale
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        denoiser = load_denoiser(tmp_path / 'm.pt', **told)
    assert ('rescale_timesteps' in denoiser.assumed) == (rescale is None) == bool(heard)
    seen = []
    denoiser.net.register_forward_pre_hook(lambda module, inputs: seen.append(float(inputs[1].flatten()[0])))
    denoiser(torch.zeros(1, 3, 8, 8), float(denoiser.scheduler.sigmas[3000]))
    assert seen == pytest.approx([time])


def test_super_resolution_is_refused(tmp_path):
    torch.save(fill(UNet(**SMALL | dict(in_channels=6))).state_dict(), tmp_path / 'upsample.pt')
    with pytest.raises(ValueError, match='super-resolution'):
        load_denoiser(tmp_path / 'upsample.pt', image_size=8)
