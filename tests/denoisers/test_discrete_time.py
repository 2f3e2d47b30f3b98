"""DDPM's grid: what the network is given, the four predictions, and stored options."""

import pytest
import torch
from torch import nn

from difflow import DDPMDenoiser, GaussianDenoiser, Scheduler, normal
from difflow.denoisers import expand_like


class Clock(nn.Module):
    "Keeps what it is given."

    def forward(self, x_vp, timesteps):
        self.timesteps = timesteps
        return 0 * x_vp


def test_level_3000_of_4000_is_750():
    grid = Scheduler.linear(4000)
    for scheduler in (grid, grid.respace('250')):
        denoiser = DDPMDenoiser(Clock(), scheduler, rescale_timesteps=True)
        denoiser(torch.zeros(2, 1, 8, 8), grid.sigmas[[3000, 3999]])
        assert denoiser.net.timesteps.tolist() == [750.0, 999.75]  # improved-diffusion: t * (1000 / 4000)
        again = DDPMDenoiser(Clock(), **denoiser.options | dict(scheduler=scheduler))
        assert again.rescale_timesteps


def test_options_of_models_that_know_nothing_of_it():
    options = dict(prediction='eps', variance='fixed_small', clip=True)
    assert DDPMDenoiser(Clock()).options == dict(scheduler=Scheduler.linear().to_dict(), **options)


@pytest.mark.parametrize('prediction', ['eps', 'x0', 'v', 'score'])
def test_a_network_in_closed_form(prediction):
    "The exact network of Gaussian images, in each unit, is the exact denoiser."
    exact, s = GaussianDenoiser(torch.full((1, 4, 4), 0.3), 0.25), Scheduler.linear()

    class Network(nn.Module):
        def forward(self, x_vp, t):
            abar = expand_like(s.alphas_cumprod[t.long()], x_vp.double())
            x, spread = x_vp / abar.sqrt(), (1 - abar).sqrt()
            x0 = exact(x, s.sigmas[t.long()])
            eps = (x_vp - abar.sqrt() * x0) / spread
            return dict(eps=eps, x0=x0, v=abar.sqrt() * eps - spread * x0, score=-eps / spread)[prediction]

    sigma = s.sigmas[[0, 100, 500, 999]]
    x = 0.3 + expand_like((sigma**2 + 0.25).sqrt(), normal((4, 1, 4, 4)).double()) * normal((4, 1, 4, 4))
    right = exact(x, sigma)
    error = (DDPMDenoiser(Network(), prediction=prediction)(x, sigma) - right).abs().max()
    assert error < 1e-5 * right.abs().max()
    wrong = dict(eps='score', x0='eps', v='x0', score='v')[prediction]
    assert (DDPMDenoiser(Network(), prediction=wrong)(x, sigma) - right).abs().max() > 0.1 * right.abs().max()
