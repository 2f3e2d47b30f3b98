"""Autoencoders beyond what the notebook shows: losses by hand, the divergence, bad input."""

import pytest
import torch

from difflow import TimeEncoder, normal
from difflow.representations import Autoencoder


def encoder(**options):
    torch.manual_seed(0)
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


@pytest.fixture(scope='module')
def images():
    return normal((6, 1, 8, 8)).clamp(-1, 1)


def test_loss_of_reconstruction_by_hand(images):
    model = Autoencoder(encoder(), (1, 8, 8)).eval()
    with torch.no_grad():
        again = model(images, 0.7)
        loss = model.loss(images, sigma=torch.full((6,), 0.7))
    assert torch.allclose(loss, 0.5 * (again - images).square().flatten(1).sum(1), rtol=1e-5)


def test_a_variational_autoencoder_pays_for_its_divergence(images):
    net, sigma = encoder(probabilistic=True), torch.full((6,), 0.7)
    free, vae = Autoencoder(net, (1, 8, 8), weight_z=0.0), Autoencoder(net, (1, 8, 8))
    vae.decoder = free.decoder
    losses = []
    for model in (free, vae):
        torch.manual_seed(3)
        with torch.no_grad():
            losses.append(model.eval().loss(images, sigma=sigma))
    with torch.no_grad():
        mean, log_variance = net.statistics(images, net.time_of(sigma))
    q, p = torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(q, p).sum(1)
    assert vae.weight_z == 1 and torch.allclose(losses[1] - losses[0], divergence, atol=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="'l2' or 'bce', got 'l1'"):
        Autoencoder(encoder(), (1, 8, 8), 'l1')
