"""The Jacobian against closed forms, brute force and finite differences, for every kind of denoiser."""

import math

import pytest
import torch
from small_denoisers import gaussian, network
from torch import nn

from difflow import (
    DDPMDenoiser,
    Denoiser,
    EDMDenoiser,
    MoLRG,
    OptimalDenoiser,
    VEDenoiser,
    VPDenoiser,
    jacobian_spectrum,
    normal,
)
from difflow.denoisers import as_sigma
from difflow.jacobians import jacobian
from difflow.jacobians.products import _Tangent


@pytest.mark.parametrize('sigma', [0.05, 1.0, 30.0])
def test_gaussian(sigma):
    denoiser, exact = gaussian(27, torch.logspace(-3, 1, 27).double(), (3, 3, 3))
    x = 2 * normal((5, 3, 3, 3), seeds=1)
    assert (jacobian(denoiser, x, sigma) - exact(sigma)).abs().max() < 1e-4
    assert (
        jacobian(denoiser, x.double(), sigma) - exact(sigma)
    ).abs().max() < 1e-6  # its buffers are float32
    found = jacobian_spectrum(denoiser, x, sigma)
    torch.testing.assert_close(found.values[0], torch.linalg.svdvals(exact(sigma)), atol=1e-5, rtol=0)


@pytest.mark.parametrize('sigma', [0.1, 0.7, 4.0])
@pytest.mark.parametrize('orthogonal', [True, False])
def test_mixture(sigma, orthogonal):
    mixture = MoLRG(3, 12, 3, seed=1, orthogonal=orthogonal)
    x = mixture.sample(6)[0] + sigma * normal((6, *mixture.image_shape), seeds=2)
    for labels in (None, torch.arange(6) % 3):
        exact = mixture.denoiser.jacobian(x.double(), sigma, labels)
        found = jacobian(mixture.denoiser, x, sigma, labels)
        assert (found - exact).abs().max() < 1e-4 * max(1, exact.abs().max())
        assert (found - found.mT).abs().max() < 1e-4 * max(1, exact.abs().max())
        assert torch.linalg.eigvalsh(exact).min() > -1e-9


@pytest.mark.parametrize('sigma', [0.2, 1.0, 5.0])
def test_optimal_denoiser_is_the_posterior_covariance(sigma):
    y = normal((40, 1, 3, 4), seeds=0)
    classes = torch.arange(40) % 2
    denoiser = OptimalDenoiser(y, labels=classes)
    x = y[:4] + sigma * normal((4, 1, 3, 4), seeds=5)
    for labels in (None, torch.tensor([0, 1, 1, 0])):
        logits = -(torch.cdist(x.flatten(1).double(), y.flatten(1).double()) ** 2) / (2 * sigma**2)
        if labels is not None:
            logits[labels[:, None] != classes] = -math.inf
        w, rows = logits.softmax(1), y.flatten(1).double()
        mean = w @ rows
        exact = (torch.einsum('bn,ni,nj->bij', w, rows, rows) - mean[:, :, None] * mean[:, None]) / sigma**2
        found = jacobian(denoiser, x, sigma, labels)
        assert (found - exact).abs().max() < 1e-4 * max(1, exact.abs().max())
        assert (found - found.mT).abs().max() < 1e-4 * max(1, exact.abs().max())
        values = jacobian_spectrum(denoiser, x, sigma, labels=labels).values
        torch.testing.assert_close(
            values, torch.linalg.svdvals(exact), atol=1e-4 * max(1, exact.abs().max()), rtol=0
        )


@pytest.mark.parametrize('kind', [EDMDenoiser, VPDenoiser, VEDenoiser, DDPMDenoiser])
def test_network_against_autograd_and_differences(kind):
    denoiser, sigma = network(kind=kind), 0.8
    x, v = normal((2, 1, 4, 4), seeds=0), normal((2, 1, 4, 4), seeds=1)
    found = jacobian(denoiser, x, sigma)
    for i in range(2):
        slow = torch.autograd.functional.jacobian(lambda y: denoiser(y, sigma), x[i : i + 1]).reshape(16, 16)
        assert (found[i] - slow).abs().max() < 1e-4
    ahead, back = (denoiser(x + e * v, sigma).detach() for e in (1e-2, -1e-2))
    assert ((ahead - back).flatten(1) / 2e-2 - (found @ v.flatten(1)[..., None])[..., 0]).abs().max() < 5e-3


def test_labels_and_levels_of_each_image_count():
    denoiser = network(num_classes=3)
    x, labels, sigmas = normal((3, 1, 4, 4), seeds=0), torch.tensor([2, 0, 1]), torch.tensor([0.3, 2.0, 0.9])
    all_at_once = jacobian(denoiser, x, sigmas, labels)
    for i in range(3):
        alone = jacobian(denoiser, x[i : i + 1], sigmas[i], labels[i : i + 1])[0]
        torch.testing.assert_close(all_at_once[i], alone, atol=1e-5, rtol=1e-4)
    assert (all_at_once[0] - jacobian(denoiser, x[:1], sigmas[0], labels[1:2])[0]).abs().max() > 1e-3


@pytest.mark.parametrize('chunk', [1, 5, 16, 40, 1000])
def test_chunks_do_not_change_the_answer(chunk):
    denoiser, x = network(), normal((3, 1, 4, 4), seeds=0)
    torch.testing.assert_close(
        jacobian(denoiser, x, 0.8, chunk=chunk), jacobian(denoiser, x, 0.8), atol=1e-5, rtol=1e-4
    )


def test_products_are_transposes_in_every_architecture():
    from difflow.networks import edm_network

    song = EDMDenoiser(edm_network('ddpmpp', 4, 1, model_channels=8, channel_mult=[1, 1], dropout=0.0)).eval()
    song.image_shape = (1, 4, 4)
    for p in song.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.6 / math.sqrt(p[0].numel()))
    for denoiser in (network(), song):
        x, u, v = (normal(shape, seeds=i) for i, shape in enumerate([(2, 1, 4, 4), (3, 2, 16), (3, 2, 16)]))
        tangent = _Tangent(denoiser, x, as_sigma(0.5, x))
        left, right = (u * tangent.push(v)).sum(-1), (tangent.pull(u) * v).sum(-1)
        assert left.abs().max() > 0.1
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


def test_parameters_keep_no_gradient_and_their_graph():
    denoiser = network().requires_grad_(True)
    found = jacobian(denoiser, normal((1, 1, 4, 4)), 0.5)
    assert not found.requires_grad and all(p.grad is None for p in denoiser.parameters())


def test_points_made_in_inference_mode():
    denoiser = network()
    with torch.inference_mode():
        x = normal((1, 1, 4, 4)) * 2
    assert jacobian(denoiser, x, 0.5).shape == (1, 16, 16)
    assert jacobian_spectrum(denoiser, x, 0.5, k=2, iterations=0, probes=2).values.shape == (1, 2)


# What is refused


class Chance(Denoiser):
    def denoise(self, x, sigma, labels):
        return x * torch.rand(())


class Jitter(Denoiser):
    "Return a shrunken image, as an exact denoiser does, and a little chance"

    image_shape = (1, 4, 4)

    def denoise(self, x, sigma, labels):
        return x / (1 + sigma.to(x.dtype) ** 2) + 0.1 * torch.rand(())


class Mute(Denoiser):
    @torch.no_grad()
    def denoise(self, x, sigma, labels):
        return x / (1 + sigma.to(x.dtype) ** 2)


X = torch.zeros(2, 1, 4, 4)


def song(dropout=0.13, **options):
    "Return EDM's network, whose blocks call the function of dropout and hold no module of it"
    from difflow.networks import edm_network

    denoiser = EDMDenoiser(
        edm_network('ddpmpp', 8, 3, model_channels=32, channel_mult=[1], dropout=dropout, **options)
    )
    denoiser.image_shape = (3, 8, 8)
    for p in denoiser.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.6 / math.sqrt(p[0].numel()))
    return denoiser


@pytest.mark.parametrize('sigma', [0.5, 80.0])
def test_dropout_without_a_module_is_refused(sigma):
    x = sigma * normal((1, 3, 8, 8))
    with pytest.raises(ValueError, match='drops out at random .p=0.13.'):
        jacobian(song().train(), x, sigma)
    with pytest.raises(ValueError, match='drops out at random .p=0.13.'):
        jacobian_spectrum(song().train(), x, sigma, k=1)
    assert jacobian_spectrum(song().eval(), x, sigma, k=1, iterations=0).values.shape == (1, 1)
    assert jacobian_spectrum(song(0.0).train(), x, sigma, k=1, iterations=0).values.shape == (1, 1)


def test_dropped_labels_are_refused():
    denoiser = song(0.0, label_dim=3, label_dropout=0.1).train()
    with pytest.raises(ValueError, match='net drops out at random .p=0.1.'):
        jacobian(denoiser, normal((1, 3, 8, 8)), 0.5, torch.tensor([0]))


def test_dropout_of_a_diffusers_network_is_refused():
    from difflow import DiffusersUNet

    net = DiffusersUNet(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32,),
        layers_per_block=1,
        dropout=0.2,
        down_block_types=('DownBlock2D',),
        up_block_types=('UpBlock2D',),
    )
    denoiser = EDMDenoiser(net.train())
    denoiser.image_shape = (1, 8, 8)
    with pytest.raises(ValueError, match='drops out at random .p=0.2.'):
        jacobian(denoiser, normal((1, 1, 8, 8)), 0.5)


@pytest.mark.parametrize('sigma', [0.5, 10.0, 80.0])
def test_chance_is_seen_where_the_answer_is_small(sigma):
    for call in (jacobian, lambda *args: jacobian_spectrum(*args, k=1, iterations=0, probes=2)):
        with pytest.raises(ValueError, match='must be deterministic, two answers'):
            call(Jitter(), sigma * normal((1, 1, 4, 4)), sigma)


def test_chance_that_is_not_seen_ends_in_the_same_error():
    class Quiet(Jitter):
        def denoise(self, x, sigma, labels):
            return x / (1 + sigma.to(x.dtype) ** 2) + 1e-12 * torch.rand(())

    tangent = _Tangent(Quiet(), normal((1, 1, 4, 4)), torch.tensor(1.0))
    with pytest.raises(ValueError, match='draws random numbers'):
        tangent.push(normal((2, 1, 16)))


@pytest.mark.parametrize('kind', [EDMDenoiser, VPDenoiser, VEDenoiser, DDPMDenoiser])
@pytest.mark.parametrize('sigma', [0.05, 80.0])
def test_rounding_in_batches_is_no_chance(kind, sigma):
    assert jacobian(network(kind=kind), sigma * normal((7, 1, 4, 4)), sigma).shape == (7, 16, 16)


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: jacobian(network(dropout=0.2).train(), X, 1.0),
            'drops out at random .p=0.2.: call denoiser.eval',
        ),
        (lambda: jacobian(Chance(), X + 1, 1.0), 'must be deterministic'),
        (lambda: jacobian(Mute(), X, 1.0), 'passes no gradient'),
        (lambda: jacobian(VEDenoiser(network().net), X, 0.001), 'sigma must be in 0.02..100, got 0.001'),
        (
            lambda: jacobian(VEDenoiser(network().net), X, torch.tensor([1.0, 101.0])),
            'sigma must be in 0.02..100, got 101',
        ),
        (lambda: jacobian(network(), X, -1.0), 'sigma must be a number > 0'),
        (lambda: jacobian(network(), X[:0], 1.0), 'at least one image, got 0'),
        (lambda: jacobian(network(), X[:, :, :3], 1.0), 'x must have the shape'),
        (lambda: jacobian(network(), X, 1.0, chunk=0), 'chunk must be an integer >= 1, got 0'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
