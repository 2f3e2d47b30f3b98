"""Live models of diffusers, latent pipelines, and folders that diffusers reads back."""

import json

import pytest
import torch

from difflow import (
    DDPMDenoiser,
    DiffusersUNet,
    EDMDenoiser,
    FlowDenoiser,
    LatentDenoiser,
    Scheduler,
    UNet,
    VEDenoiser,
    export,
    load_denoiser,
)
from difflow.networks import DiffusersModule
from diffusers_files import CONFIGS
from golden import fill, wave

PACKAGE = "pip install 'difflow-lab[hub]'"
X, SIGMA = wave((2, 3, 16, 16)), torch.tensor([0.4, 6.0])


@pytest.fixture
def diffusers():
    return pytest.importorskip('diffusers', reason=PACKAGE)


def small(diffusers, **more):
    return fill(diffusers.UNet2DModel(**CONFIGS['plain'], **more)).eval()


def close(found, expected):
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize('denoiser', [
    lambda net: DDPMDenoiser(net, Scheduler.linear(200), 'eps'),
    lambda net: DDPMDenoiser(net, Scheduler.cosine(100), 'v', 'fixed_large', clip=False),
    lambda net: DDPMDenoiser(
        net, Scheduler.from_betas([0.01 * i for i in range(1, 9)], zero_terminal_snr=True), 'x0', clip=False
    ),
    lambda net: EDMDenoiser(net, 0.3),
    lambda net: FlowDenoiser(net, 1000.0, shift=3.0),
])  # fmt: skip
def test_what_is_exported_is_read_back(denoiser, tmp_path):
    ours = denoiser(fill(DiffusersUNet(**CONFIGS['plain'])).eval())
    again = load_denoiser(export(ours, tmp_path / 'm', format='diffusers'))
    assert type(again) is type(ours) and again.assumed == {}
    with torch.inference_mode():
        close(again(X, SIGMA), ours(X, SIGMA))
    if type(ours) is DDPMDenoiser:
        assert (again.prediction, again.variance_type, again.clip) == (
            ours.prediction, ours.variance_type, ours.clip,
        )  # fmt: skip
        torch.testing.assert_close(again.scheduler.sigmas, ours.scheduler.sigmas, rtol=1e-6, atol=0)


def test_what_is_exported_is_read_by_the_package(diffusers, tmp_path):
    ours = DDPMDenoiser(
        fill(DiffusersUNet(**CONFIGS['plain'])).eval(), Scheduler.linear(200), 'v', clip=False
    )
    folder = export(ours, tmp_path / 'm', format='diffusers')
    theirs = diffusers.DDPMPipeline.from_pretrained(folder)
    with torch.inference_mode():
        t, x_vp = 70, X
        sample = theirs.scheduler.step(theirs.unet(x_vp, t).sample, t, x_vp).pred_original_sample
        sigma = ours.scheduler.sigmas[t]
        close(ours(x_vp * (1 + sigma**2).sqrt().float(), sigma), sample)


def test_what_has_no_twin(tmp_path):
    with pytest.raises(ValueError, match='a UNet has no twin in diffusers'):
        export(DDPMDenoiser(UNet(8, 1, 32, 1, 1, (), (1,))), tmp_path / 'm', format='diffusers')
    with pytest.raises(ValueError, match='format must be one of weights, diffusers'):
        export(DDPMDenoiser(UNet(8, 1, 32, 1, 1, (), (1,))), tmp_path / 'm', format='onnx')
    assert not (tmp_path / 'm').exists()


def test_live_pipelines(diffusers):
    net = small(diffusers)
    for pipeline in (
        diffusers.DDPMPipeline(net, diffusers.DDPMScheduler(prediction_type='v_prediction')),
        diffusers.DDIMPipeline(net, diffusers.DDIMScheduler(prediction_type='v_prediction')),
    ):
        D = load_denoiser(pipeline)
        assert D.prediction == 'v' and D.net.inner is pipeline.unet and D.image_shape == (3, 16, 16)
        sigma = D.scheduler.sigmas[300]
        alpha = 1 / (1 + sigma**2)
        with torch.inference_mode():
            answer = net(X * alpha.sqrt().float(), torch.tensor(300)).sample
            close(D(X, sigma), alpha.float() * X - (alpha.sqrt() * sigma).float() * answer)
    assert isinstance(load_denoiser(net, scheduler=diffusers.EDMEulerScheduler()), EDMDenoiser)
    assert isinstance(load_denoiser(net, prediction='flow'), FlowDenoiser)
    assert load_denoiser(net, scheduler=Scheduler.cosine(50), prediction='x0').prediction == 'x0'
    for options in ({}, dict(prediction='eps')):
        with pytest.raises(ValueError, match='alone does not say what it was trained on: give scheduler='):
            load_denoiser(net, **options)
    score = diffusers.ScoreSdeVePipeline(net, diffusers.ScoreSdeVeScheduler())
    assert isinstance(load_denoiser(score), VEDenoiser)


def test_a_condition_is_asked_for_and_kept(diffusers, tmp_path):
    net = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=[32, 32], norm_num_groups=8, layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2,
        down_block_types=['DownBlock2D', 'CrossAttnDownBlock2D'],
        up_block_types=['CrossAttnUpBlock2D', 'UpBlock2D'],
    )  # fmt: skip
    fill(net).eval()
    scheduler, condition = diffusers.PNDMScheduler(), wave((5, 16))
    with pytest.raises(ValueError, match=r'condition= is missing: .* shape \(L, 16\)'):
        load_denoiser(net, scheduler=scheduler)
    D = load_denoiser(net, scheduler=scheduler, condition=condition)
    again = load_denoiser(export(D, tmp_path / 'm', format='diffusers'))
    x = wave((2, 4, 8, 8))
    with torch.inference_mode():
        close(again(x, SIGMA), D(x, SIGMA))
    assert isinstance(again.net, DiffusersModule) and torch.equal(again.net.condition, condition)


def test_latent_pipelines(diffusers, tmp_path):
    blocks = dict(
        block_out_channels=[32, 32], norm_num_groups=8, layers_per_block=1,
        down_block_types=['DownEncoderBlock2D'] * 2, up_block_types=['UpDecoderBlock2D'] * 2,
    )  # fmt: skip
    kl = diffusers.AutoencoderKL(latent_channels=3, scaling_factor=0.2, **blocks)
    vq = diffusers.VQModel(latent_channels=3, num_vq_embeddings=16, scaling_factor=0.3, **blocks)
    for name, codec in dict(vae=kl, vqvae=vq).items():
        fill(codec).eval()
        pipeline = diffusers.LDMPipeline(
            vqvae=codec, unet=small(diffusers), scheduler=diffusers.DDIMScheduler()
        )
        live = load_denoiser(pipeline)
        pipeline.save_pretrained(tmp_path / name)
        loaded = load_denoiser(tmp_path / name)
        z = wave((1, 3, 16, 16))
        for D in (live, loaded):
            assert isinstance(D, LatentDenoiser) and D.scale == codec.config.scaling_factor
            with torch.inference_mode():
                close(D.decode(z), codec.decode(z / D.scale).sample.clamp(-1, 1))
                close(D(z, 2.0), live(z, 2.0))


def test_options_that_are_unknown(diffusers):
    with pytest.raises(ValueError, match="unknown argument 'num_heads'"):
        load_denoiser(small(diffusers), scheduler=diffusers.DDPMScheduler(), num_heads=3)


def test_the_index_names_a_pipeline(tmp_path):
    ours = DDPMDenoiser(fill(DiffusersUNet(**CONFIGS['plain'])))
    index = json.loads((export(ours, tmp_path / 'm', format='diffusers') / 'model_index.json').read_text())
    assert index['_class_name'] == 'DDPMPipeline' and index['unet'] == ['diffusers', 'UNet2DModel']
