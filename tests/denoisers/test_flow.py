"""Flow matching: the same denoiser through the velocity, in the habits of torchcfm, SiT and diffusers."""

import pytest
import torch
from torch import nn

import difflow as df
from difflow.denoisers import expand_like

LEVELS = torch.tensor([1e-3, 0.05, 1.0, 30.0, 4096.0], dtype=torch.float64)
HABITS = [dict(), dict(time_scale=1000.0), dict(reverse=True), dict(reverse=True, time_scale=2.0)]


def gaussian():
    return df.GaussianDenoiser(torch.full((1, 4, 4), 0.3), 0.25).double()


class Velocity(nn.Module):
    "Answers as a network that was trained perfectly; in closed form, without dividing by 1 - t."

    def __init__(self, time_scale=1.0, reverse=False):
        super().__init__()
        self.time_scale, self.reverse = time_scale, reverse

    def forward(self, x_t, time, labels=None):
        time = time.double() / self.time_scale
        t = expand_like(1 - time if self.reverse else time, x_t)
        rest = x_t - (1 - t) * 0.3
        noise = t * rest / ((1 - t) ** 2 * 0.25 + t**2)
        velocity = noise - (0.3 + (1 - t) * 0.25 * rest / ((1 - t) ** 2 * 0.25 + t**2))
        return -velocity if self.reverse else velocity


@pytest.mark.parametrize('habit', HABITS)
def test_velocity_in_closed_form(habit):
    noise = df.normal((5, 1, 4, 4)).double()
    x = 0.3 + 0.5 * df.normal((5, 1, 4, 4), 1) + expand_like(LEVELS, noise) * noise
    right = gaussian()(x, LEVELS)
    error = (df.FlowDenoiser(Velocity(**habit), **habit)(x, LEVELS) - right).abs().max()
    assert error < 1e-5 * right.abs().max()  # the network is given its time in float32
    wrong = habit | dict(reverse=not habit.get('reverse', False))
    error = (df.FlowDenoiser(Velocity(**habit), **wrong)(x, LEVELS) - right).abs().max()
    assert error > 0.1 * right.abs().max()


def test_the_loss_is_that_of_the_velocity():
    x0, noise = df.normal((5, 1, 4, 4), 2).double(), df.normal((5, 1, 4, 4), 3).double()
    denoiser = df.FlowDenoiser(Velocity())
    t = expand_like(LEVELS / (1 + LEVELS), x0)
    velocity = denoiser.net((1 - t) * x0 + t * noise, LEVELS / (1 + LEVELS))
    theirs = (velocity - (noise - x0)).square().flatten(1).mean(1)  # as torchcfm and SiT write it
    torch.testing.assert_close(denoiser.loss(x0, sigma=LEVELS, noise=noise), theirs, rtol=1e-4, atol=0)


def test_shift_and_times():
    for shift in 1.0, 3.0:
        denoiser = df.FlowDenoiser(Velocity(), shift=shift)
        even = torch.arange(1, 11, dtype=torch.float64) / 10
        t = shift * even / (1 + (shift - 1) * even)  # Esser et al. 2024, eq. 23
        levels = denoiser.grid(10).sigmas
        torch.testing.assert_close((levels / (1 + levels))[:-1], t[:-1], rtol=1e-12, atol=0)
        assert levels[-1] == 4096
        levels = denoiser.sigmas_for(even[:-1])
        torch.testing.assert_close(levels / (1 + levels), t[:-1], rtol=1e-12, atol=0)
        assert denoiser.sigmas_for(torch.tensor([1.0])) == 4096 and len(denoiser.steps(10_000)) == 10_000
        assert denoiser.steps(18).sigmas[-1].item() == pytest.approx(80)


def test_every_sampler_takes_its_default_levels():
    "Images from noise have the mean and the spread of the data, whatever the rule of a step."
    for sampler in 'ddpm', 'ddim', 'euler', 'heun', 'dpmpp_2m':
        denoiser = df.FlowDenoiser(Velocity())
        images = df.sample(denoiser, (64, 1, 4, 4), sampler, steps=50, progress=False)
        assert abs(images.mean() - 0.3) < 0.06 and abs(images.std() - 0.5) < 0.04, sampler
        back = df.forward_backward(denoiser, images[:8].clamp(-1, 1), 1, 250, sampler)
        assert (back - images[:8].clamp(-1, 1)).abs().max() < 0.02, sampler


def test_torchcfm():
    cfm = pytest.importorskip('torchcfm')
    x0, noise, t = df.normal((4, 1, 4, 4), 2), df.normal((4, 1, 4, 4), 3), torch.tensor([0.1, 0.4, 0.7, 0.9])
    matcher = cfm.ConditionalFlowMatcher(sigma=0.0)
    _, x_t, u_t = matcher.sample_location_and_conditional_flow(noise, x0, t)  # from noise to image
    asked = []

    class Answer(nn.Module):
        def forward(self, x, time):
            asked.extend([x, time])
            return u_t

    sigma = ((1 - t) / t).double()
    x0hat = df.FlowDenoiser(Answer(), reverse=True)(x0 + expand_like(sigma, x0) * noise, sigma)
    torch.testing.assert_close(asked[0], x_t, rtol=0, atol=1e-6)
    torch.testing.assert_close(asked[1], t, rtol=0, atol=1e-6)
    torch.testing.assert_close(x0hat, x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_diffusers(shift):
    diffusers = pytest.importorskip('diffusers')
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    denoiser = df.FlowDenoiser(Velocity(time_scale=1000.0), time_scale=1000.0, shift=shift)
    levels = denoiser.grid(20)
    even = (torch.arange(20, 0, -1) / 20).numpy()  # diffusers 0.30 takes no list
    theirs.set_timesteps(sigmas=even)  # shifted by the scheduler
    torch.testing.assert_close(
        theirs.sigmas[:-1].double().flip(0), levels.sigmas / (1 + levels.sigmas), rtol=3e-4, atol=0
    )
    x = noise = df.normal((3, 1, 4, 4)).double()
    for t in theirs.timesteps:
        x = theirs.step(denoiser.net(x, t.expand(3)), t, x).prev_sample
    start = (1 + levels.sigmas[-1]) * noise
    ours = df.sample(denoiser, start.float(), 'euler', scheduler=levels, progress=False)
    torch.testing.assert_close(ours, x.float(), rtol=0, atol=2e-3)
