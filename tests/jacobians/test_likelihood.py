"""Log densities by both ways, against closed forms and sums over everything there is."""

import math

import pytest
import torch
from small_denoisers import network

from difflow import (
    DDPMDenoiser,
    Denoiser,
    GaussianDenoiser,
    LatentDenoiser,
    OptimalDenoiser,
    RandomHierarchy,
    Scheduler,
    log_likelihood,
    normal,
)
from difflow.noise import uniform

METHODS = 'flow', 'mmse'


def full_gaussian(dim, seed=0):
    "Return the denoiser of a Gaussian with a full covariance, variances from 0.001 to 1, and its log density"
    basis = torch.linalg.qr(normal((dim, dim), seed).double()).Q
    variances = torch.logspace(-3, 0, dim, dtype=torch.float64)
    mean = normal((1, 1, dim, 1), seed + 1)[0] / 3
    denoiser = GaussianDenoiser(mean, (basis * variances) @ basis.T)

    def log_density(x, sigma):
        total = (basis * (variances + sigma**2)) @ basis.T
        z = x.double().flatten(1) - mean.flatten()
        return -((z * torch.linalg.solve(total, z.T).T).sum(1) + torch.logdet(2 * math.pi * total)) / 2

    return denoiser, log_density


def sum_over(images, x, sigma):
    "Return the log density of equally probable `images` under noise, summed in float64"
    squares = (x.double().flatten(1)[:, None] - images.double().flatten(1)).square().sum(2)
    dim = x[0].numel()
    norm = math.log(len(images)) + dim / 2 * math.log(2 * math.pi * sigma**2)
    return (-squares / (2 * sigma**2)).logsumexp(1) - norm


def far_off(found, exact):
    "Return by how many stated errors, of each image"
    return (found.nats - exact).abs() / found.error


@pytest.mark.parametrize('dim', [16, 64])
@pytest.mark.parametrize('sigma', [0.002, 0.2])
def test_gaussian(dim, sigma):
    denoiser, log_density = full_gaussian(dim)
    x = denoiser.draw(normal((12, 1, dim, 1), 3)) + sigma * normal((12, 1, dim, 1), 4)
    x[-2:] += 0.5 * normal((2, 1, dim, 1), 5)  # where there are no data
    exact = log_density(x, sigma)
    flow, mmse = (log_likelihood(denoiser, x, m, sigma_min=sigma, steps=16) for m in METHODS)
    assert (far_off(flow, exact) < 4).all() and (far_off(mmse, exact) < 4).all()
    assert (flow.nats - exact)[:-2].abs().max() < 0.01 and flow.error[:-2].max() < 0.05
    assert mmse.error[:-2].max() < 0.5 * dim**0.5 and far_off(mmse, exact).max() > 0.2
    assert ((flow.nats - mmse.nats).abs() < 4 * mmse.error + flow.error).all()
    bits = (math.log(127.5) - exact / dim) / math.log(2)
    assert (flow.bits_per_dim - bits).abs().max() < (flow.nats - exact).abs().max() + 1e-9
    assert all(value.dtype == torch.float64 and value.shape == (12,) for value in flow)


@pytest.mark.parametrize('sigma', [0.01, 0.3])
def test_optimal_denoiser_is_the_sum_over_its_images(sigma):
    images = normal((40, 1, 4, 4), 1).clamp(-1, 1)
    x = images[:8] + sigma * normal((8, 1, 4, 4), 2)
    exact, denoiser = sum_over(images, x, sigma), OptimalDenoiser(images)
    for method in METHODS:
        found = log_likelihood(denoiser, x, method, sigma_min=sigma, steps=12)
        assert (far_off(found, exact) < 4).all(), method
    flow = log_likelihood(denoiser, x[:3].double(), sigma_min=sigma)
    assert (flow.nats - exact[:3]).abs().max() < 0.05 and flow.error.max() < 0.3


def test_tree_is_the_sum_over_its_strings():
    tree, sigma = RandomHierarchy(3, 2, 2, 2), 0.2
    strings = tree.encode(torch.cartesian_prod(*[torch.arange(3)] * tree.length)).float()
    grammatical = tree.denoiser(strings, 1e-3).sub(strings).abs().flatten(1).amax(1) < 1e-3
    x = strings[grammatical][::9][:10]
    x = x + sigma * normal(x.shape, 2)
    exact = sum_over(strings[grammatical], x, sigma)
    for method in METHODS:
        found = log_likelihood(tree.denoiser, x, method, sigma_min=sigma)
        assert (far_off(found, exact) < 4).all(), method


def test_errors_are_neither_too_small_nor_too_large():
    "Repeat one question with many seeds: the spread is what was stated."
    denoiser, log_density = full_gaussian(16)
    x = (denoiser.draw(normal((1, 1, 16, 1), 3)) + 0.1 * normal((1, 1, 16, 1), 4)).expand(150, 1, 16, 1)
    exact = log_density(x, 0.1)
    mmse = log_likelihood(denoiser, x, 'mmse', sigma_min=0.1, seeds=range(150))
    flow = log_likelihood(denoiser, x, sigma_min=0.1, probes=4, seeds=range(150), steps=12)
    for found in (mmse, flow):
        z = (found.nats - exact) / found.error
        assert 0.8 < z.square().mean().sqrt() < 1.25 and z.abs().max() < 4.5
        assert abs(z.mean()) < 4 / 150**0.5


def test_nothing_is_left_where_the_denoiser_is_the_reference():
    "A round Gaussian differs from the reference only by the variance that is estimated: hardly any spread."
    denoiser = GaussianDenoiser(torch.full((1, 4, 4), 0.25), 0.3)
    x = denoiser.draw(normal((6, 1, 4, 4), 3))
    found = log_likelihood(denoiser, x.double(), 'mmse')
    z = (x.double() - 0.25).flatten(1)
    variance = 0.3 + 0.002**2
    exact = -(z.square() / variance + math.log(2 * math.pi * variance)).sum(1) / 2
    assert (far_off(found, exact) < 4).all() and found.error.max() < 0.5


class EvenPixels(Denoiser):
    "The posterior mean of pixels that are uniform over the bins of 256 grey values"

    image_shape = 1, 2, 4

    def denoise(self, x, sigma, labels):
        sigma, end = sigma.to(x).reshape(-1, 1, 1, 1), 1 + 1 / 255
        a, b = (-end - x) / sigma, (end - x) / sigma
        heights = (-(a**2) / 2).exp() - (-(b**2) / 2).exp()
        areas = torch.special.ndtr(b) - torch.special.ndtr(a)
        return x + sigma * heights / (2 * math.pi) ** 0.5 / areas


@pytest.mark.parametrize('method', METHODS)
def test_even_grey_values_cost_eight_bits(method):
    grey = torch.randint(10, 245, (8, 1, 2, 4), generator=torch.Generator().manual_seed(0))
    found = log_likelihood(EvenPixels(), grey.double() / 127.5 - 1, method, dequantise=True)
    nats = (found.bits_per_dim - 8).abs() * 8 * math.log(2)
    assert (nats < 4 * found.error).all() and nats.max() < 2


def test_dequantised_is_the_density_at_greys_spread_evenly():
    denoiser, log_density = full_gaussian(16)
    x = (uniform((150, 1, 16, 1), 7) * 256).floor() / 127.5 - 1
    exact = log_density(x, 1.0)
    found = log_likelihood(denoiser, x, sigma_min=1.0, steps=2, dequantise=True, seeds=2)
    again = log_likelihood(denoiser, x, sigma_min=1.0, steps=2, dequantise=True, seeds=2)
    other = log_likelihood(denoiser, x, sigma_min=1.0, steps=2, dequantise=True, seeds=3)
    assert torch.equal(found.nats, again.nats) and not torch.equal(found.nats, other.nats)
    moved = found.nats - log_likelihood(denoiser, x, sigma_min=1.0, steps=2).nats
    slope = (denoiser(x.double(), 1.0) - x).flatten(
        1
    )  # a bin is narrow: the change is slope . u, on average 0
    spread = (slope.square().sum(1) / 12).sqrt() / 127.5
    assert 0.85 < (moved / spread).square().mean().sqrt() < 1.15
    assert (found.nats - exact).abs().max() < 0.3
    with pytest.raises(ValueError, match='x must hold the grey values'):
        log_likelihood(denoiser, x + 0.002, dequantise=True)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('probes', [None, 4])
def test_other_images_and_the_chunk_do_not_matter(method, probes):
    images = normal((20, 1, 4, 4), 1).clamp(-1, 1)
    denoiser, x = OptimalDenoiser(images), (images[:5] + 0.1 * normal((5, 1, 4, 4), 2)).double()
    ask = dict(method=method, probes=probes, sigma_min=0.1, steps=4)
    whole = log_likelihood(denoiser, x, seeds=range(5), **ask)
    alone = log_likelihood(denoiser, x[3:], seeds=[3, 4], chunk=7, **ask)
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a[3:], b, rtol=1e-6, atol=1e-6)
    first = log_likelihood(denoiser, x[:2], seeds=0, **ask)  # one seed for all: by its number in the batch
    torch.testing.assert_close(
        log_likelihood(denoiser, x, seeds=0, **ask).nats[:2], first.nats, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize('method', METHODS)
def test_labels_choose_the_class(method):
    images = normal((30, 1, 3, 3), 1).clamp(-1, 1)
    classes = torch.arange(30) % 3
    denoiser = OptimalDenoiser(images, labels=classes)
    x, labels = images[:6] + 0.2 * normal((6, 1, 3, 3), 2), torch.tensor([0, 1, 2, 0, 0, 2])
    exact = torch.cat([sum_over(images[classes == c], x[i : i + 1], 0.2) for i, c in enumerate(labels)])
    found = log_likelihood(denoiser, x, method, labels, sigma_min=0.2, steps=8)
    assert (far_off(found, exact) < 4).all()
    free = log_likelihood(denoiser, x, method, sigma_min=0.2, steps=8)
    assert (far_off(free, sum_over(images, x, 0.2)) < 4).all()


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('sigma_max', [3.0, 10.0])
def test_an_end_that_comes_too_early_is_in_the_error(method, sigma_max):
    images = normal((40, 1, 3, 3), 1).clamp(-1, 1)
    x = images[:8] + 0.2 * normal((8, 1, 3, 3), 2)
    found = log_likelihood(OptimalDenoiser(images), x, method, sigma_min=0.2, sigma_max=sigma_max)
    assert (far_off(found, sum_over(images, x, 0.2)) < 4).all()


def test_cost_is_as_stated():
    class Counted(GaussianDenoiser):
        rows = 0

        def denoise(self, x, sigma, labels):
            self.rows += len(x)
            return super().denoise(x, sigma, labels)

    x = normal((64, 1, 2, 2), 1)
    counts = {}
    for steps in (8, 16):
        denoiser = Counted(torch.zeros(1, 2, 2), 0.5)
        log_likelihood(denoiser, x, 'mmse', steps=steps, probes=4)
        counts['mmse', steps] = denoiser.rows / 64
        denoiser = Counted(torch.zeros(1, 2, 2), 0.5)
        log_likelihood(denoiser, x, steps=steps, probes=2, chunk=10_000)
        counts['flow', steps] = denoiser.rows / 64
    assert counts['mmse', 16] - counts['mmse', 8] == 2 * 8 * 4
    assert 10 * 8 <= counts['flow', 16] - counts['flow', 8] <= (10 + 4 + 1) * 8  # 4: a call for each trace


def test_networks_are_asked_in_their_own_type():
    denoiser, x = network(), normal((2, 1, 4, 4), 1).clamp(-1, 1)
    for method in METHODS:
        ask = dict(method=method, steps=2, probes=2)
        single, double = (log_likelihood(denoiser, y, **ask) for y in (x, x.double()))
        torch.testing.assert_close(single.nats, double.nats, rtol=1e-4, atol=1e-3)
        assert single.nats.isfinite().all() and not single.nats.requires_grad


def test_range_is_that_of_the_denoiser():
    denoiser = network(kind=lambda net: DDPMDenoiser(net, Scheduler.linear(100))).eval()
    x = normal((1, 1, 4, 4), 1)
    least, most = denoiser.sigma_min, denoiser.sigma_max
    found = log_likelihood(denoiser, x, 'mmse', steps=2, probes=2)
    same = log_likelihood(denoiser, x, 'mmse', sigma_min=least, sigma_max=min(80.0, most), steps=2, probes=2)
    assert least > 0.002 and torch.equal(found.nats, same.nats)
    with pytest.raises(ValueError, match='sigma_min must be a number in'):
        log_likelihood(denoiser, x, sigma_min=least / 2)
    with pytest.raises(ValueError, match='sigma_max must be a number in'):
        log_likelihood(denoiser, x, sigma_max=most * 2)


def test_what_has_no_density_is_refused():
    x, denoiser = normal((2, 1, 2, 2), 1), GaussianDenoiser(torch.zeros(1, 2, 2), 0.5)
    latent = LatentDenoiser(denoiser, (lambda t: t, lambda t: t))
    with pytest.raises(ValueError, match='got one of latents'):
        log_likelihood(latent, x)
    inner = log_likelihood(latent.denoiser, x, sigma_min=0.1)
    torch.testing.assert_close(
        inner.nats, -(x.double().square() / 0.51 + math.log(2 * math.pi * 0.51)).flatten(1).sum(1) / 2,
        rtol=0, atol=0.01,
    )  # fmt: skip

    class Chance(GaussianDenoiser):
        def denoise(self, x, sigma, labels):
            return super().denoise(x, sigma, labels) + 0.1 * torch.randn(x.shape)

    with pytest.raises(ValueError, match='deterministic'):
        log_likelihood(Chance(torch.zeros(1, 2, 2), 0.5), x)


def test_result_is_read_back(tmp_path):
    denoiser = GaussianDenoiser(torch.zeros(1, 2, 2), 0.5)
    found = log_likelihood(denoiser, normal((3, 1, 2, 2), 1), steps=4)
    back = type(found).load(found.save(tmp_path / 'likelihood.npz'))
    assert all(torch.equal(a, b) for a, b in zip(found, back, strict=True))
    assert [row['nats'] for row in found.rows()] == found.nats.tolist()
    assert repr(found).startswith('Likelihood: 3 images, ')
