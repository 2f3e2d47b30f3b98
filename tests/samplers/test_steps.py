"""Parity of denoisers, samplers and forward-backward with outputs of the published code."""

import numpy as np
import pytest
import torch

from difflow import (
    DDPMDenoiser,
    Denoiser,
    EDMDenoiser,
    Scheduler,
    VEDenoiser,
    VPDenoiser,
    ddim,
    ddpm,
    forward_backward,
    heun,
    sweep,
)
from difflow.denoisers import p_mean_variance
from difflow.noise import Stream
from difflow.samplers import ddim_reverse
from golden import FIXTURES, tiny_unet, wave

GOLDEN = np.load(FIXTURES / 'guided_diffusion.npz')
golden = lambda key: torch.from_numpy(GOLDEN[key])
KINDS = {'lin250': 'learned_range', 'fixsmall': 'fixed_small'}
X0, X_T = 0.9 * wave((4, 3, 8, 8), 0.05), 1.5 * wave((4, 3, 8, 8), 0.07, 1.0)
NOISE, T = 1.2 * wave((4, 3, 8, 8), 0.9, 2.0), torch.tensor([0, 1, 125, 249])


class Toy(torch.nn.Module):
    "The toy network of the reference outputs; `t` is the original timestep."

    def __init__(self, learned):
        super().__init__()
        self.learned = learned

    def forward(self, x, t):
        eps = 0.7 * torch.sin(x + 0.001 * t[:, None, None, None])
        return torch.cat([eps, torch.cos(3 * x)], 1) if self.learned else eps


def toy(kind):
    variance = KINDS[kind]
    return DDPMDenoiser(
        Toy(variance == 'learned_range'), Scheduler.linear(1000).respace('250'), variance=variance
    )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['mean', 'variance', 'log_variance', 'pred_xstart'])
def test_p_mean_variance(kind, name):
    torch.testing.assert_close(
        p_mean_variance(toy(kind), X_T, T)[name], golden(f'{kind}_pm_{name}'), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize('kind', KINDS)
def test_losses(kind):
    denoiser = toy(kind)
    sigma = denoiser.scheduler.sigmas[T]
    terms = denoiser.loss_terms(X0, None, sigma, NOISE)
    for name, value in terms.items():
        torch.testing.assert_close(value, golden(f'{kind}_loss_{name}'), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        denoiser.loss(X0, sigma=sigma, noise=NOISE), golden(f'{kind}_loss_loss'), atol=1e-4, rtol=0
    )


def one_step(sampler, denoiser, t, noise=None):
    "Make the step from index `t` on the published x_t, and return the state in published units."
    alphas = denoiser.scheduler.alphas_cumprod
    sigmas = [denoiser.scheduler.sigmas[t].item(), denoiser.scheduler.sigmas[t - 1].item() if t else 0.0]
    row = T.tolist().index(t)
    x = X_T[row : row + 1] / alphas[t].sqrt().float()
    state = next(sampler(denoiser, x, sigmas, noise=noise or (lambda step: torch.zeros_like(x))))
    return state.x * (alphas[t - 1].sqrt().float() if t else 1)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('t', T.tolist())
def test_one_step_of_each_sampler(kind, t):
    row = T.tolist().index(t)
    torch.manual_seed(0)
    drawn = torch.randn(X_T.shape)[row : row + 1]
    torch.testing.assert_close(
        one_step(ddim, toy(kind), t), golden(f'{kind}_ddim')[row : row + 1], atol=1e-4, rtol=0
    )
    if kind != 'lin250':
        return
    torch.testing.assert_close(
        one_step(ddpm, toy(kind), t, lambda step: drawn),
        golden('lin250_psample_seed0')[row : row + 1],
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('row, t', list(enumerate(T.tolist())))
def test_one_step_of_the_way_up(kind, row, t):
    s, expected = toy(kind).scheduler, golden(f'{kind}_ddimrev')[row : row + 1]
    bar = [*s.alphas_cumprod.tolist(), 0.0]  # the published chain ends where no image is left
    sigma, above = s.sigmas[t].item(), (s.sigmas[t + 1].item() if t + 1 < len(s) else 1e3)
    state = next(ddim_reverse(toy(kind), X_T[row : row + 1] * (1 + sigma**2) ** 0.5, [sigma, above]))
    if t + 1 < len(s):
        reached = state.x * bar[t + 1] ** 0.5
    else:
        reached = (state.x - state.x0hat) / above
    torch.testing.assert_close(reached, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize('kind', KINDS)
def test_q_sample(kind):
    torch.testing.assert_close(
        toy(kind).scheduler.q_sample(X0, T, NOISE), golden(f'{kind}_q'), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize('name, sampler', [('p', ddpm), ('ddim', ddim)])
@pytest.mark.parametrize('r', [0, 1, 5, 9, 10])
def test_forward_backward_loops(name, sampler, r):
    denoiser = DDPMDenoiser(tiny_unet(), Scheduler.linear(1000), variance='learned_range')
    x0, noise = 0.9 * wave((2, 3, 32, 32), 0.013), 1.3 * wave((2, 3, 32, 32), 0.77, 1.0)
    torch.manual_seed(0)
    back = forward_backward(
        denoiser,
        x0,
        r,
        steps=10,
        sampler=sampler,
        noise=lambda stream, step: noise if stream == Stream.FORWARD else torch.randn(x0.shape),
    )
    torch.testing.assert_close(back, golden(f'fb_matched_{name}_r{r}'), atol=2e-3, rtol=0)


def test_repo_convention_noises_one_step_too_far_and_forgets_the_image_at_the_end():
    denoiser = toy('fixsmall')
    s = denoiser.grid(10)
    result = sweep(
        denoiser, X0.clamp(-1, 1), [4, 10], steps=10, convention='repo', noise=lambda stream, step: NOISE
    )
    scale = s.alphas_cumprod[[3, 9]].sqrt().float()  # of the level that the model is given
    torch.testing.assert_close(
        result.noised[0] * scale[0], s.q_sample(X0.clamp(-1, 1), 4, NOISE), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(result.noised[1] * scale[1], NOISE, atol=1e-5, rtol=0)
    assert result.sigmas.tolist() == s.sigmas[[3, 9]].tolist()  # what the model is given
    assert (
        result.noised_sigmas.tolist() == [s.sigmas[4].item(), float('inf')]
        and result.snr_db[0] == s.snr_db[4]
    )


# EDM: sums of the published sampler and losses on closed-form stubs


def ramp(*shape):
    return torch.cos(0.1 * torch.arange(int(np.prod(shape)), dtype=torch.float64)).reshape(shape)


class Stub(Denoiser):
    "D = x / (1 + k sigma^2), rounded to float32 as the reference does."

    def __init__(self, k):
        super().__init__()
        self.k = k

    def denoise(self, x, sigma, labels):
        return (x / (1 + self.k * sigma.reshape(sigma.shape + (1,) * (3 * sigma.ndim)) ** 2)).float()


def test_edm_heun_18_steps():
    *_, last = heun(Stub(4), ramp(2, 1, 4, 4).float().double() * 80, Scheduler.karras(18))
    assert last.x.sum().item() == pytest.approx(0.219435, abs=2e-5)
    assert last.x.abs().sum().item() == pytest.approx(10.862798, abs=2e-5)
    assert last.x.flatten()[:3].tolist() == pytest.approx([0.527625, 0.524989, 0.517107], abs=2e-6)


def test_edm_heun_with_churn():
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator) for _ in range(18)]
    *_, last = heun(
        Stub(4),
        ramp(2, 1, 4, 4).float().double() * 80,
        Scheduler.karras(18),
        noise=lambda step: drawn[17 - step],
        S_churn=40.0,
        S_min=0.05,
        S_max=50.0,
        S_noise=1.003,
    )
    assert last.x.sum().item() == pytest.approx(-0.332331, abs=2e-5)
    assert last.x.flatten()[:3].tolist() == pytest.approx([0.053379, -0.897176, -0.036684], abs=2e-6)


def edm_levels(kind):
    return torch.randn(4, 1, 1, 1) if kind is EDMDenoiser else torch.rand(4, 1, 1, 1)


@pytest.mark.parametrize(
    'kind, total', [(VPDenoiser, 56.978656), (VEDenoiser, 417.465554), (EDMDenoiser, 894.213506)]
)
def test_edm_losses(kind, total):
    class Exact(kind):
        def predict(self, x, sigma, labels=None, check=True):
            return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2).float(), None

    x0, denoiser = ramp(4, 3, 8, 8).float(), Exact(torch.nn.Identity())
    torch.manual_seed(123)
    drawn = edm_levels(kind).flatten().double()
    sigma = denoiser.sigmas_for(torch.special.ndtr(drawn) if kind is EDMDenoiser else drawn)
    loss = denoiser.loss(x0, sigma=sigma, noise=torch.randn(x0.shape))
    assert loss.sum().item() * x0[0].numel() == pytest.approx(total, rel=1e-4)
