"""Folders of diffusers: which files are read, what a scheduler says, and the package beside it."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from difflow import DDPMDenoiser, DiffusersUNet, EDMDenoiser, FlowDenoiser, load_denoiser
from difflow.checkpoints import describe
from difflow.checkpoints.diffusers_schedulers import _RULES, _plan_of_scheduler
from diffusers_files import CONFIGS, write_folder
from golden import fill, wave


def plain(shift=0.0):
    net = fill(DiffusersUNet(**CONFIGS['plain']))
    return {name: tensor.contiguous() + shift for name, tensor in net.state_dict().items()}


def put(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_averaged_networks_go_first_and_it_is_said(tmp_path):
    write_folder(tmp_path / 'unet', CONFIGS['plain'], plain())
    write_folder(tmp_path / 'unet_ema', CONFIGS['plain'] | dict(decay=0.999), plain(1.0))
    loaded, raw = load_denoiser(tmp_path), load_denoiser(tmp_path, key='unet')
    assert torch.equal(loaded.net.conv_out.bias, raw.net.conv_out.bias + 1)
    assert loaded.card['weights'] == 'unet_ema (averaged); not unet'
    assert raw.card['weights'] == 'unet; not unet_ema' and loaded.card['without effect'] == {'decay': 0.999}


def shards(folder, tensors, names):
    place = {key: names[i % len(names)] for i, key in enumerate(tensors)}
    for name in names:
        save_file({key: t for key, t in tensors.items() if place[key] == name}, folder / name)
    return place


def test_weights_in_several_files(tmp_path):
    folder, tensors = write_folder(tmp_path / 'm', CONFIGS['plain'], plain()), plain(1.0)
    (folder / 'diffusion_pytorch_model.safetensors').unlink()
    index = folder / 'diffusion_pytorch_model.safetensors.index.json'
    place = shards(folder, tensors, ['a.safetensors', 'b.safetensors'])
    put(index, metadata={}, weight_map=place)
    loaded = load_denoiser(folder)
    assert all(torch.equal(loaded.net.state_dict()[key], tensor) for key, tensor in tensors.items())
    (folder / 'b.safetensors').unlink()
    with pytest.raises(ValueError, match='b.safetensors is missing: the index lists it'):
        load_denoiser(folder)
    for bad in ({}, {'a': '../a.safetensors'}, {'a': 5}, [1]):
        put(index, weight_map=bad)
        with pytest.raises(ValueError, match='lists no files of weights'):
            load_denoiser(folder)


@pytest.mark.parametrize(
    'names, chosen',
    [
        (['diffusion_pytorch_model.fp16.safetensors', 'diffusion_pytorch_model.bin'], 1),
        (['diffusion_pytorch_model.int8.safetensors', 'diffusion_pytorch_model.fp16.safetensors'], 1),
        (['diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.non_ema.safetensors'], 0),
        (['model.safetensors'], 0),
    ],
)
def test_variants(names, chosen, tmp_path):
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'], plain())
    (folder / 'diffusion_pytorch_model.safetensors').unlink()
    for i, name in enumerate(names):
        if name.endswith('.bin'):
            torch.save(plain(float(i)), folder / name)
        else:
            save_file(plain(float(i)), folder / name)
    bias = plain()['conv_out.bias']
    assert torch.equal(load_denoiser(folder).net.conv_out.bias, bias + chosen)
    if 'non_ema' in names[-1]:
        other = load_denoiser(folder, variant='non_ema')
        assert torch.equal(other.net.conv_out.bias, bias + 1)
    with pytest.raises(ValueError, match="no weights: of the variant 'x', there are"):
        load_denoiser(folder, variant='x')


def test_one_file_with_its_configuration_beside_it(tmp_path):
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'], plain(), dict(prediction_type='sample'), True)
    loaded = load_denoiser(folder / 'unet' / 'diffusion_pytorch_model.safetensors')
    assert loaded.prediction == 'x0' and torch.equal(loaded.net.conv_out.bias, plain()['conv_out.bias'])
    (folder / 'unet' / 'config.json').unlink()
    with pytest.raises(ValueError, match='give config='):
        load_denoiser(folder / 'unet' / 'diffusion_pytorch_model.safetensors')


def test_latents_are_never_images(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)  # as where it is not installed
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'], plain(), {}, True)
    put(folder / 'vqvae' / 'config.json', _class_name='VQModel')
    for key in (None, 'unet'):
        with pytest.raises(ValueError, match='works on latents'):
            load_denoiser(folder, key=key)
    put(folder / 'model_index.json', _class_name='LDMPipeline', unet=['diffusers', 'UNet2DModel'], x=None)
    with pytest.raises(ValueError, match='works on latents'):
        describe(folder)
    with pytest.raises(ValueError, match='works on latents'):
        load_denoiser(folder / 'unet')
    other = tmp_path / 'o'
    put(other / 'vae' / 'config.json', _class_name='AutoencoderKL')
    with pytest.raises(ValueError, match='no config.json of a network, but AutoencoderKL'):
        load_denoiser(other)


SOLVERS = [
    'DDPM', 'DDIM', 'DDIMInverse', 'PNDM', 'LMSDiscrete', 'EulerDiscrete', 'EulerAncestralDiscrete',
    'HeunDiscrete', 'KDPM2Discrete', 'KDPM2AncestralDiscrete', 'DPMSolverMultistep', 'DPMSolverSinglestep',
    'DEISMultistep', 'UniPCMultistep', 'LCM', 'TCD', 'SASolver', 'DPMSolverMultistepInverse',
]  # fmt: skip


@pytest.mark.parametrize('solver', SOLVERS)
def test_a_solver_is_only_its_betas(solver, tmp_path):
    betas = dict(beta_start=0.0002, beta_end=0.01, beta_schedule='scaled_linear', num_train_timesteps=300)
    config = dict(_class_name=f'{solver}Scheduler', prediction_type='v_prediction', **betas)
    loaded = load_denoiser(write_folder(tmp_path, CONFIGS['plain'], plain(), config))
    kept = np.cumprod(1 - np.linspace(0.0002**0.5, 0.01**0.5, 300) ** 2)
    np.testing.assert_allclose(loaded.scheduler.alphas_cumprod, kept, rtol=1e-12)
    assert loaded.prediction == 'v' and loaded.assumed == {}
    assert loaded.card == {'scheduler': f'{solver}Scheduler'}


def test_flow_matching_and_edm(tmp_path):
    x = wave((2, 3, 16, 16))
    net = fill(DiffusersUNet(**CONFIGS['plain'])).eval()
    flow = dict(_class_name='FlowMatchEulerDiscreteScheduler', shift=3.0)
    solver = dict(_class_name='DPMSolverMultistepScheduler', prediction_type='flow_prediction')
    sigma = torch.tensor([0.25, 4.0])
    t = (sigma / (1 + sigma))[:, None, None, None]
    with torch.inference_mode():
        expected = x * (1 - t) - t * net(x * (1 - t), 1000 * t.flatten())
        for i, config in enumerate([flow, solver | dict(use_flow_sigmas=True, flow_shift=3.0)]):
            loaded = load_denoiser(write_folder(tmp_path / str(i), CONFIGS['plain'], plain(), config))
            assert isinstance(loaded, FlowDenoiser)
            torch.testing.assert_close(loaded(x, sigma), expected, atol=1e-5, rtol=1e-4)
        edm = dict(_class_name='EDMEulerScheduler', sigma_data=0.3)
        loaded = load_denoiser(write_folder(tmp_path / 'e', CONFIGS['plain'], plain(), edm))
        assert isinstance(loaded, EDMDenoiser) and loaded.sigma_data == 0.3


PACKAGE = "pip install 'difflow-lab[hub]'"


@pytest.mark.parametrize('rule', _RULES)
@pytest.mark.parametrize('prediction', ['epsilon', 'sample', 'v_prediction'])
def test_beside_the_schedulers_of_the_package(rule, prediction):
    diffusers = pytest.importorskip('diffusers', reason=PACKAGE)
    theirs = diffusers.HeunDiscreteScheduler if rule == 'exp' else diffusers.DDPMScheduler
    theirs = theirs(beta_schedule=rule, prediction_type=prediction, clip_sample=False)
    options = _plan_of_scheduler(dict(theirs.config)).options
    ours = DDPMDenoiser(torch.nn.Identity(), clip=False).scheduler.from_dict(options['scheduler'])
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize('prediction', ['epsilon', 'sample', 'v_prediction'])
@pytest.mark.parametrize('zero', [False, True])
def test_beside_the_prediction_of_the_package(prediction, zero, tmp_path):
    diffusers = pytest.importorskip('diffusers', reason=PACKAGE)
    if zero and prediction == 'epsilon':
        pytest.skip('a network that predicts the noise has no answer where there is no signal')
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, rescale_betas_zero_snr=zero, clip_sample=False, num_train_timesteps=100
    )
    net = fill(DiffusersUNet(**CONFIGS['plain'])).eval()
    folder = write_folder(tmp_path, CONFIGS['plain'], net.state_dict(), dict(scheduler.config))
    loaded, x_vp = load_denoiser(folder), wave((2, 3, 16, 16))
    scheduler.set_timesteps(100)
    for t in (0, 30, 98):
        with torch.inference_mode():
            expected = scheduler.step(net(x_vp, torch.tensor(t)), t, x_vp).pred_original_sample
            kept = loaded.scheduler.alphas_cumprod[t]
            found = loaded(x_vp / kept.sqrt().float(), loaded.scheduler.sigmas[t])
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
