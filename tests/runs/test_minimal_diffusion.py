"""Against minimal-diffusion: its noise levels, and the standard deviations that its samplers end with."""

import numpy as np
import pytest
import torch

from difflow import DDPMDenoiser, GaussianDenoiser, Scheduler, UNet, normal, sample
from difflow.runs import legacy_ddim, minimal_walk, wanted_images
from golden import FIXTURES, fill

KEPT = [7, 10, 20, 50, 250, 1000]


def final_std(walk, ddim, variance=0.04):
    "The standard deviation that an exact denoiser of N(0, variance) ends with, worked out step by step"
    v = walk[0] ** 2
    for sigma, below in zip(walk, walk[1:]):
        shrink = variance / (variance + sigma**2)
        if ddim:
            v *= (shrink + below / sigma * (1 - shrink)) ** 2
        else:
            v = (
                v * (shrink + (below / sigma) ** 2 * (1 - shrink)) ** 2
                + below**2 * (sigma**2 - below**2) / sigma**2
            )
    return v**0.5


@pytest.mark.parametrize(
    'ddim, published',
    [(False, [0.105, 0.124, 0.153, 0.177, 0.192, 0.199]), (True, [0.114, 0.139, 0.169, 0.185, 0.196, 0.200])],
)
def test_published_standard_deviations(ddim, published):
    "The published numbers are of samples, so they are off by up to a hundredth; DDPM and DDIM differ by more"
    found = [final_std(Scheduler.cosine(1000).respace(f'linspace{S}').walk(), ddim) for S in KEPT]
    assert found == pytest.approx(published, rel=0.015)


@pytest.mark.parametrize('name', ['ddpm', 'ddim', 'legacy_ddim'])
def test_samplers_follow_that(name):
    from difflow.samplers import SAMPLERS

    s = Scheduler.cosine(1000).respace('linspace10')
    x = s.sigmas[-1].item() * normal((20_000, 1, 1, 1), seeds=2).double()
    sampler = {**SAMPLERS, 'legacy_ddim': legacy_ddim}[name]
    *_, last = sampler(GaussianDenoiser(torch.zeros(1, 1, 1), 0.04), x, s, clip=True)
    assert last.x.std().item() == pytest.approx(final_std(s.walk(), name != 'ddpm'), rel=0.02)


def test_published_levels():
    respaced = lambda S: Scheduler.cosine(1000).respace(f'linspace{S}')
    assert respaced(50).timesteps[:4].tolist() == [0, 20, 40, 61] and respaced(50).timesteps[
        -2:
    ].tolist() == [978, 999]
    for S in range(1, 1001, 37):
        kept = np.linspace(0, 999, num=S, endpoint=True, dtype=int)
        assert respaced(S).timesteps.tolist() == kept.tolist()
        abar = Scheduler.cosine(1000).alphas_cumprod[kept]
        assert (
            torch.cumprod(1 - respaced(S).betas, 0) / abar - 1
        ).abs().max() < 1e-6  # 1 - beta of 1e-9 keeps so many digits
        assert respaced(S).alphas_cumprod.tolist() == abar.tolist()
    again = Scheduler.from_dict(respaced(50).to_dict())
    assert again == respaced(50) and again.timesteps.tolist() == respaced(50).timesteps.tolist()
    exact = GaussianDenoiser(torch.zeros(1, 1, 1), 0.04)
    exact.scheduler = Scheduler.cosine(1000)
    assert minimal_walk(exact, 2).timesteps.tolist() == [0, 999]
    with pytest.raises(ValueError, match='steps must be >= 2, got 1'):
        minimal_walk(exact, 1)
    for bad in ('linspace0', 'linspace1001', 'linspace', 'linspace5.5'):
        with pytest.raises(ValueError, match="'linspaceN' must have N in 1..1000"):
            Scheduler.cosine(1000).respace(bad)


@pytest.mark.parametrize('name, sampler', [('ddpm', 'ddpm'), ('ddim', legacy_ddim)])
def test_samples_are_those_of_the_original(name, sampler):
    """The fixture was made by main.py and unets.py of minimal-diffusion (ea0321e): `sample_N_images` of a
    UNetModel of 8 pixels with the weights of `golden.fill`, the last layer times 0.1, in 20 steps, with the
    noise and the labels of these seeds in place of torch.randn and torch.randint. Its tables are float32:
    1e-5 apart with DDPM, 1e-3 with DDIM, which an untrained network makes sensitive"""
    net = fill(
        UNet(
            8,
            3,
            32,
            3,
            num_res_blocks=1,
            attention_resolutions=[8, 4],
            time_embed_mult=2,
            channel_mult=(1, 2),
            num_classes=4,
            num_head_channels=16,
            resblock_updown=True,
            use_new_attention_order=True,
        )
    )
    with torch.no_grad():
        net.out[2].weight.mul_(0.1), net.out[2].bias.mul_(0.1)
    wanted, denoiser = (
        wanted_images(4, 4, seed=112233, random=True),
        DDPMDenoiser(net, Scheduler.cosine(1000)),
    )
    with np.load(FIXTURES / 'minimal_diffusion_samples.npz') as theirs:
        labels, images, pixels = (theirs[key] for key in ('labels', f'{name}_20', f'{name}_20_uint8'))
    assert [w.label for w in wanted] == labels.tolist()
    made = sample(
        denoiser,
        4,
        sampler,
        scheduler=minimal_walk(denoiser, 20),
        seeds=[w.seed for w in wanted],
        labels=torch.from_numpy(labels),
        progress=False,
    )
    assert (made - torch.from_numpy(images)).abs().max() < (1e-4 if name == 'ddpm' else 5e-3)
    ours = (127.5 * (made.permute(0, 2, 3, 1).numpy() + 1)).astype(np.uint8)
    assert (ours != pixels).mean() < 0.01 and np.abs(ours.astype(int) - pixels).max() <= 1
