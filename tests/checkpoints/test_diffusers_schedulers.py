"""Schedulers of diffusers: betas by their formulas, and what the real ones make of a network's answer."""

import inspect

import numpy as np
import pytest
import torch

from difflow import EDMDenoiser, Scheduler
from difflow.checkpoints.diffusers_schedulers import _diffusers_scheduler, _plan_of_scheduler
from difflow.denoisers import DDPMDenoiser, VEDenoiser
from difflow.noise import normal

DDPMS = """DDPMScheduler DDPMParallelScheduler DDIMScheduler DDIMParallelScheduler DDIMInverseScheduler
    PNDMScheduler LMSDiscreteScheduler EulerDiscreteScheduler EulerAncestralDiscreteScheduler
    HeunDiscreteScheduler KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler DPMSolverMultistepScheduler
    DPMSolverMultistepInverseScheduler DPMSolverSinglestepScheduler DPMSolverSDEScheduler
    DEISMultistepScheduler UniPCMultistepScheduler SASolverScheduler LCMScheduler TCDScheduler
    RePaintScheduler CogVideoXDDIMScheduler CogVideoXDPMScheduler""".split()
RULES = 'linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid', 'laplace', 'exp'


class Net(torch.nn.Module):
    "Answers something that depends on the image and on the time"

    def forward(self, x, timesteps, labels=None):
        return (3 * x).tanh() + timesteps.reshape(-1, 1, 1, 1).float() / 1000


def planned(config):
    "Return the denoiser that a scheduler's configuration makes of `Net`"
    kinds = dict(DDPMDenoiser=DDPMDenoiser, EDMDenoiser=EDMDenoiser)
    plan = _plan_of_scheduler(config)
    options = dict(plan.options)
    if 'scheduler' in options:
        options['scheduler'] = Scheduler.from_dict(options['scheduler'])
    return kinds[plan.denoiser](Net(), **options)


def close(found, expected, tolerance=1e-4):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize('name', DDPMS)
@pytest.mark.parametrize('zero', [False, True])
def test_levels_are_those_of_the_class(name, zero):
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[hub]'")
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    if zero and 'rescale_betas_zero_snr' not in known:
        pytest.skip('never without signal')
    for rule in (None, *RULES):
        config = dict(beta_schedule=rule) if rule else {}
        config |= dict(rescale_betas_zero_snr=True) if zero else {}
        try:
            theirs = kind(**config)
        except (NotImplementedError, ImportError):
            continue
        expected = theirs.alphas_cumprod.double().numpy()[: -1 if zero else None]
        for given in ({'_class_name': name} | config, {'_class_name': name} | dict(theirs.config)):
            found = _diffusers_scheduler(given).alphas_cumprod.numpy()
            np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-3)


@pytest.mark.parametrize('name', ['DDPMScheduler', 'DDIMScheduler', 'EulerDiscreteScheduler'])
@pytest.mark.parametrize('prediction', ['epsilon', 'sample', 'v_prediction'])
def test_prediction_of_a_real_step(name, prediction):
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[hub]'")
    theirs = getattr(diffusers, name)(prediction_type=prediction)
    theirs.set_timesteps(10)
    t = theirs.timesteps[3]
    level = planned({'_class_name': name, 'prediction_type': prediction})
    sigma = ((1 - theirs.alphas_cumprod[int(t)]) / theirs.alphas_cumprod[int(t)]).sqrt().item()
    x = normal((2, 3, 8, 8)) * sigma
    sample = x if 'Euler' in name else x / (1 + sigma**2) ** 0.5
    if prediction == 'sample' and 'Euler' in name:
        return  # theirs raises
    with torch.inference_mode():
        answer = Net()(theirs.scale_model_input(sample, t), t.reshape(1))
        expected = theirs.step(answer, t, sample).pred_original_sample
        found = level(x, sigma)
    close(found.clamp(-1, 1) if level.clip else found, expected)


@pytest.mark.parametrize(
    'name', ['DPMSolverMultistepScheduler', 'UniPCMultistepScheduler', 'DEISMultistepScheduler']
)
@pytest.mark.parametrize('prediction', ['epsilon', 'sample', 'v_prediction'])
def test_prediction_of_a_real_solver(name, prediction):
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[hub]'")
    kwargs = dict(algorithm_type='dpmsolver++') if name.startswith('DPM') else {}
    theirs = getattr(diffusers, name)(prediction_type=prediction, **kwargs)
    theirs.set_timesteps(10)
    t = theirs.timesteps[3]
    theirs._init_step_index(t)
    sigma = theirs.sigmas[3].item()
    x = normal((2, 3, 8, 8)) * sigma
    with torch.inference_mode():
        x_vp = x / (1 + sigma**2) ** 0.5
        answer = Net()(x_vp, t.reshape(1))
        expected = theirs.convert_model_output(answer, sample=x_vp)
        if name.startswith('DEIS'):  # its answer is the noise
            expected = x - sigma * expected
        close(planned({'_class_name': name, 'prediction_type': prediction})(x, sigma), expected)


@pytest.mark.parametrize('name', ['EDMEulerScheduler', 'EDMDPMSolverMultistepScheduler'])
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_preconditioning_of_edm(name, prediction):
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[hub]'")
    theirs = getattr(diffusers, name)(prediction_type=prediction, sigma_data=0.7)
    plan = _plan_of_scheduler({'_class_name': name, 'prediction_type': prediction, 'sigma_data': 0.7})
    sign = -1 if plan.convention == 'negative' else 1
    x, sigma = normal((2, 3, 8, 8)) * 2, torch.tensor(2.0)
    answer = Net()(theirs.precondition_inputs(x, sigma), theirs.precondition_noise(sigma).reshape(1))
    net = Net()
    net.forward = lambda *inputs: sign * Net()(*inputs)
    close(EDMDenoiser(net, **plan.options)(x, 2.0), theirs.precondition_outputs(x, answer, sigma))


def test_formulas_without_the_package():
    expected = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for name in ('LCMScheduler', 'TCDScheduler'):
        found = _diffusers_scheduler({'_class_name': name}).alphas_cumprod.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    shifted = _diffusers_scheduler({'_class_name': 'CogVideoXDDIMScheduler'}).sigmas.numpy()
    np.testing.assert_allclose(shifted**2, 3 * (1 - expected) / expected, rtol=1e-6)
    heun = _diffusers_scheduler({'_class_name': 'HeunDiscreteScheduler'}).betas.numpy()
    np.testing.assert_allclose(heun, np.linspace(0.00085, 0.012, 1000), rtol=1e-9)


def test_score_networks_of_the_unit_interval():
    "Images in [0, 1] whose values are N(1/2, 1/16) at every pixel: ours are N(0, 1/4), and known exactly"
    for name, low in (('ScoreSdeVeScheduler', 0.02), ('KarrasVeScheduler', 0.02)):
        plan = _plan_of_scheduler({'_class_name': name})
        assert (plan.denoiser, plan.convention) == ('VEDenoiser', 'score')
        assert plan.options['sigma_min'] == low
    net = torch.nn.Module()
    net.forward = lambda x, c_noise: (
        _unit_score((x + 1) / 2, c_noise.exp()) * c_noise.exp().reshape(-1, 1, 1, 1)
    )
    x = normal((2, 1, 4, 4)) * 3
    found = VEDenoiser(net)(x, 1.5)
    torch.testing.assert_close(found, x * 0.25 / (0.25 + 1.5**2), atol=1e-5, rtol=1e-5)


def _unit_score(y, s):
    "Return the score of y = N(1/2, 1/16) + s n"
    return (0.5 - y) / (1 / 16 + s.reshape(-1, 1, 1, 1) ** 2)


def test_what_is_refused():
    for config, message in (
        (dict(_class_name='IPNDMScheduler'), 'IPNDMScheduler states no beta_start'),
        (dict(_class_name='Mine', beta_start=0.1, beta_end=0.2, num_train_timesteps=9), 'no beta_schedule'),
        (
            dict(_class_name='SCMScheduler', prediction_type='trigflow'),
            "prediction_type must be .* got 'trigflow'",
        ),
        (dict(_class_name='DPMSolverMultistepScheduler', use_flow_sigmas=True), 'use_flow_sigmas needs'),
        (dict(_class_name='EDMEulerScheduler', prediction_type='sample'), 'prediction_type must be'),
        (dict(snr_shift_scale=-1), 'snr_shift_scale must be'),
        (dict(_class_name='ScoreSdeVeScheduler', sigma_min=3, sigma_max=2), 'sigma_max must be'),
    ):
        with pytest.raises(ValueError, match=message):
            _plan_of_scheduler(config)
