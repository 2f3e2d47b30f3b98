"""The network of diffusers: recorded answers of the package, the package where installed, and folders."""

import json

import numpy as np
import pytest
import torch

from difflow import DDPMDenoiser, DiffusersUNet, Scheduler, load_denoiser, save
from difflow.checkpoints import describe, read_tensors
from difflow.checkpoints.diffusers_schedulers import _diffusers_betas, _diffusers_scheduler
from diffusers_files import CONFIGS, SCHEDULER, write_folder
from golden import FIXTURES, fill, wave


def inputs(config):
    return (
        wave((2, 3, 16, 16)),
        torch.tensor([3, 700]),
        torch.tensor([1, 4]) if config.get('num_class_embeds') else None,
    )


@pytest.mark.parametrize('name', CONFIGS)
def test_answers_are_those_of_the_package(name):
    net = fill(DiffusersUNet(**CONFIGS[name]))
    with torch.inference_mode():
        found = net(*inputs(CONFIGS[name]))
    expected = torch.from_numpy(np.load(FIXTURES / 'diffusers.npz')[name])  # by diffusers 0.42.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize('name', CONFIGS)
def test_beside_the_package(name, tmp_path):
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[peers]'")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(**CONFIGS[name]).eval()
    theirs.save_pretrained(tmp_path / 'unet')
    diffusers.DDPMScheduler(num_train_timesteps=500, beta_schedule='squaredcos_cap_v2').save_pretrained(
        tmp_path / 'scheduler'
    )
    loaded = load_denoiser(tmp_path)
    assert set(loaded.net.state_dict()) == set(theirs.state_dict())
    x, t, labels = inputs(CONFIGS[name])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.net(x, t, labels), theirs(x, t, labels).sample, atol=1e-5, rtol=0)
    assert loaded.scheduler == Scheduler.cosine(500)
    theirs.save_pretrained(tmp_path / 'bin', safe_serialization=False)
    assert read_tensors(tmp_path / 'bin/diffusion_pytorch_model.bin').keys() == theirs.state_dict().keys()


@pytest.mark.parametrize('rule', ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid'])
def test_betas_are_those_of_the_package(rule):
    expected = np.load(FIXTURES / 'diffusers.npz')[f'betas_{rule}']
    np.testing.assert_allclose(_diffusers_betas({'beta_schedule': rule})[::100], expected, rtol=2e-6)


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('pipeline', [True, False])
def test_folders(name, pipeline, tmp_path):
    net = fill(DiffusersUNet(**CONFIGS[name]))
    folder = write_folder(tmp_path / 'm', CONFIGS[name], net.state_dict(), SCHEDULER, pipeline)
    loaded = load_denoiser(folder)
    learned = CONFIGS[name]['out_channels'] == 6
    assert loaded.scheduler == Scheduler.cosine(500) and loaded.prediction == 'v' and not loaded.clip
    assert loaded.variance_type == ('learned_range' if learned else 'fixed_large') and loaded.assumed == {}
    direct = DDPMDenoiser(net, Scheduler.cosine(500), 'v', loaded.variance_type, clip=False)
    x, _, labels = inputs(CONFIGS[name])
    with torch.inference_mode():
        assert torch.equal(loaded(x, 2.0, labels), direct(x, 2.0, labels))
    facts = describe(folder)
    assert facts['format'] == 'diffusers folder' and facts['image_shape'] == [3, 16, 16]
    assert facts['classes'] == CONFIGS[name].get('num_class_embeds') and json.dumps(facts)
    again = load_denoiser(save(loaded, tmp_path / 's.safetensors'))
    with torch.inference_mode():
        assert torch.equal(again(x, 2.0, labels), direct(x, 2.0, labels))


def test_a_folder_without_scheduler_says_what_is_assumed(tmp_path):
    net = fill(DiffusersUNet(**CONFIGS['plain']))
    loaded = load_denoiser(write_folder(tmp_path, CONFIGS['plain'], net.state_dict()))
    assert loaded.scheduler == Scheduler.linear(1000) and loaded.prediction == 'eps'
    assert loaded.assumed['prediction'] == 'eps' and loaded.assumed['scheduler']['name'] == 'linear'
    given = load_denoiser(tmp_path, prediction='x0', scheduler=Scheduler.cosine(100))
    assert given.prediction == 'x0' and given.scheduler == Scheduler.cosine(100)
    assert not {'prediction', 'scheduler'} & given.assumed.keys()


def test_old_names_and_half_files(tmp_path):
    net = fill(DiffusersUNet(**CONFIGS['plain']))
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    tensors = net.state_dict()
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    assert 'mid_block.attentions.0.query.weight' in tensors
    loaded = load_denoiser(
        write_folder(tmp_path, CONFIGS['plain'], {k: t.half() for k, t in tensors.items()})
    )
    for key, tensor in net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[key], tensor.half().float())


@pytest.mark.parametrize('name', ['DDIMScheduler', 'DDIMParallelScheduler', 'DDPMParallelScheduler'])
def test_schedulers_of_the_same_levels(name, tmp_path):
    config = dict(
        _class_name=name,
        _diffusers_version='0.30.0',
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule='linear',  # as it is written
        num_train_timesteps=1000,
        trained_betas=None,
        clip_sample=False,
        clip_sample_range=1.0,
        sample_max_value=1.0,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type='v_prediction',
        rescale_betas_zero_snr=False,
        thresholding=False,
        dynamic_thresholding_ratio=0.995,
        timestep_spacing='leading',
    )
    net = fill(DiffusersUNet(**CONFIGS['plain']))
    loaded = load_denoiser(write_folder(tmp_path, CONFIGS['plain'], net.state_dict(), config))
    assert (
        loaded.scheduler == Scheduler.linear(1000)
        and loaded.prediction == 'v'
        and not loaded.clip
        and loaded.assumed == {}
    )


@pytest.mark.parametrize(
    'config, scheduler, message',
    [
        (dict(block_out_channels=[32, 32]), None, 'do not fit this DiffusersUNet'),
        ({}, dict(prediction_type='flow'), "prediction_type must be one of .*, got 'flow'"),
        ({}, dict(beta_schedule='steep'), "beta_schedule must be one of .*, got 'steep'"),
        ({}, dict(variance_type='learned'), "variance must be one of .*, got 'learned'"),
        ({}, dict(beta_end=2.0), 'beta_end must be a number in 0..1, got 2.0'),
        ({}, dict(num_train_timesteps=10**9), 'num_train_timesteps must be an integer in 1..100000'),
        ({}, dict(use_flow_sigmas=True), "use_flow_sigmas needs prediction_type 'flow_prediction'"),
        (
            {},
            dict(
                _class_name='CMStochasticIterativeScheduler',
                num_train_timesteps=40,
                sigma_min=0.002,
                sigma_max=80.0,
                rho=7.0,
            ),
            'the scheduler CMStochasticIterativeScheduler states no beta_start',
        ),
        ({}, dict(_class_name=['DDPMScheduler']), '_class_name must be'),
    ],
)
def test_folders_that_do_not_fit(config, scheduler, message, tmp_path):
    net = DiffusersUNet(**CONFIGS['plain'])
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'] | config, net.state_dict(), scheduler)
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(folder)
    assert str(folder) in str(error.value)


def test_folders_that_are_incomplete_or_damaged(tmp_path):
    net = DiffusersUNet(**CONFIGS['plain'])
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'], net.state_dict())
    weights = folder / 'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match='safetensors cannot be read: it is a safetensors file, cut short'):
        load_denoiser(folder)
    weights.unlink()
    with pytest.raises(ValueError, match='has no weights'):
        load_denoiser(folder)
    for text in ('{', '[]', ''):
        (folder / 'config.json').write_text(text)
        with pytest.raises(ValueError, match='config.json'):
            load_denoiser(folder)
    with pytest.raises(ValueError, match='hash= is for files'):
        load_denoiser(folder, hash='ab')


def test_a_pickle_in_a_folder_runs_nothing(tmp_path):
    import os

    class Attack:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "owned"}',)

    net = DiffusersUNet(**CONFIGS['plain'])
    folder = write_folder(tmp_path / 'm', CONFIGS['plain'], net.state_dict())
    (folder / 'diffusion_pytorch_model.safetensors').unlink()
    torch.save({'conv_in.weight': Attack()}, folder / 'diffusion_pytorch_model.bin')
    with pytest.raises(ValueError, match='refused: it asks for posix.system'):
        load_denoiser(folder)
    assert not (tmp_path / 'owned').exists()


def test_timesteps_and_batches():
    net = fill(DiffusersUNet(**CONFIGS['ddpm']))
    x = wave((3, 3, 16, 16))
    with torch.inference_mode():
        for one in (torch.tensor(70.0), torch.tensor([70.0]), torch.tensor([70.0]).expand(3)):
            torch.testing.assert_close(net(x, one), net(x, torch.full((3,), 70.0)), atol=1e-5, rtol=0)
    assert _diffusers_scheduler({'trained_betas': [0.1, 0.2]}).alphas_cumprod.tolist() == pytest.approx(
        [0.9, 0.72]
    )
