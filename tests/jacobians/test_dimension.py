"""Intrinsic dimension: planes, the density that it is read from, and the published rule done by the book."""

import math

import pytest
import torch
from small_denoisers import gaussian, network

from difflow import Denoiser, GaussianDenoiser, MoLRG, OptimalDenoiser, intrinsic_dimension, normal

METHODS = 'flipd', 'ranks'


def plane(rank, dim=24, seed=0, variance=1.0):
    "Return the denoiser of a Gaussian on a plane through 0, and its basis"
    q = torch.linalg.qr(normal((dim, rank), seed + 50).double()).Q
    return GaussianDenoiser(torch.zeros(dim, 1, 1), variance * q @ q.T), q


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('rank', [1, 3, 12, 23])
def test_a_plane_has_its_dimension(rank, method):
    denoiser, q = plane(rank)
    x = (normal((4, rank)).double() @ q.T).float().reshape(4, 24, 1, 1)
    for sigma in (0.003, 0.03):
        found = intrinsic_dimension(denoiser, x, sigma, method=method)
        assert type(found) is torch.Tensor and found.shape == (4,) and found.dtype == torch.float64
        assert (found - rank).abs().max() < (1e-9 if method == 'ranks' else 0.01 + rank * sigma**2 * 10)


@pytest.mark.parametrize('method', METHODS)
def test_the_low_rank_mixture_has_its_own(method):
    for orthogonal in (True, False):
        molrg = MoLRG(3, 24, 5, seed=2, orthogonal=orthogonal)
        x, classes = molrg.sample(6)
        for labels in (None, classes):
            found = intrinsic_dimension(molrg.denoiser, x, 0.01, labels, method=method)
            assert found.round().tolist() == [5] * 6


class Union(Denoiser):
    "The posterior mean of standard Gaussians on planes of several dimensions, as likely as each other"

    image_shape = 24, 1, 1

    def __init__(self, ranks):
        super().__init__()
        self.planes = [plane(rank, seed=rank)[1] for rank in ranks]

    def denoise(self, x, sigma, labels):
        rows, sigma = x.flatten(1).double(), sigma.double().reshape(-1, 1)
        inside = [rows @ q for q in self.planes]
        gain = 1 / (1 + sigma**2)
        log_weights = [
            y.square().sum(1, keepdim=True) * gain / sigma**2 / 2 + q.shape[1] / 2 * (sigma**2 * gain).log()
            for y, q in zip(inside, self.planes)
        ]
        weights = torch.stack(log_weights).softmax(0)
        mean = sum(w * gain * (y @ q.T) for w, y, q in zip(weights, inside, self.planes))
        return mean.to(x.dtype).reshape(x.shape)


@pytest.mark.parametrize('method', METHODS)
def test_each_plane_of_a_union_has_its_own(method):
    ranks = 2, 5, 9
    denoiser = Union(ranks)
    x = torch.stack([q @ normal((q.shape[1],), 7).double() for q in denoiser.planes]).reshape(3, 24, 1, 1)
    found = intrinsic_dimension(denoiser, x, torch.tensor([0.01, 0.02, 0.01]), method=method)
    assert found.round().tolist() == list(ranks)


def log_density(images, x, sigma):
    "Return ln p_sigma(x) of a finite set, in float64"
    squares = torch.cdist(x.flatten(1).double(), images.flatten(1).double()).square()
    dim = x[0].numel()
    return (-squares / (2 * sigma**2)).logsumexp(1) - dim * math.log(sigma)


@pytest.mark.parametrize('sigma', [0.05, 0.2, 1.0, 5.0, 20.0])
def test_it_is_how_the_density_falls(sigma):
    "The derivative of ln p_sigma(x) by ln sigma is the dimension minus the number of pixels"
    images = (0.3 * normal((30, 1, 4, 4)) + 0.2 * normal((1, 1, 4, 4), 1)).clamp(-1, 1)
    x = torch.cat([images[:3], images[3:6] + 0.1 * normal((3, 1, 4, 4), 2)]).double()
    h = 1e-4
    slope = log_density(images, x, sigma * math.exp(h)) - log_density(images, x, sigma * math.exp(-h))
    found = intrinsic_dimension(OptimalDenoiser(images), x, sigma)
    torch.testing.assert_close(found, 16 + slope / (2 * h), rtol=1e-4, atol=1e-4)
    assert (found > -1e-6).all()  # as of every posterior mean


@pytest.mark.parametrize('sigma', [0.05, 0.5, 5.0])
def test_a_gaussian_has_a_closed_form_at_every_level(sigma):
    values = torch.logspace(-3, 1, 20).double()
    denoiser, share = gaussian(20, values)
    x = normal((3, 20, 1, 1), 4)
    rest = x.flatten(1).double() @ (torch.eye(20).double() - share(sigma)).T
    true = (values / (values + sigma**2)).sum() + rest.square().sum(1) / sigma**2
    for found in (intrinsic_dimension(denoiser, x, sigma), intrinsic_dimension(denoiser, x.double(), sigma)):
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4)


def test_off_the_plane_the_distance_counts():
    denoiser, q = plane(3)
    away = torch.eye(24).double() - q @ q.T
    step = away[0] / away[0].norm() * 0.05
    found = intrinsic_dimension(denoiser, step.reshape(1, 24, 1, 1), 0.01)
    assert found.item() == pytest.approx(3 + 25, abs=0.01)


def test_ranks_follow_the_published_rule():
    "The singular values of the matrix of scores, and its largest gap, without any shortcut"
    denoiser, x = network(), normal((2, 1, 4, 4), 3)
    for sigma, draws in ((0.2, 64), (1.0, 20)):
        noise = normal((draws, 1, 4, 4), 5)
        with torch.no_grad():
            scores = [(denoiser(row + sigma * noise, sigma) - row - sigma * noise) / sigma**2 for row in x]
        values = [torch.linalg.svdvals(s.flatten(1).double()) for s in scores]
        true = [16 - 1 - (v[:-1] - v[1:]).argmax().item() for v in values]
        found = intrinsic_dimension(denoiser, x, sigma, method='ranks', draws=draws, seed=5, chunk=7)
        assert found.tolist() == true
    default = intrinsic_dimension(denoiser, x, 0.2, method='ranks', seed=5)
    assert (
        default.tolist() == intrinsic_dimension(denoiser, x, 0.2, method='ranks', draws=64, seed=5).tolist()
    )


@pytest.mark.parametrize('options', [dict(), dict(probes=8, seed=3), dict(method='ranks', draws=40, seed=3)])
def test_an_answer_does_not_depend_on_its_neighbours(options):
    denoiser, x, sigma = network(), normal((4, 1, 4, 4)), torch.tensor([0.1, 0.5, 1.0, 4.0])
    whole = intrinsic_dimension(denoiser, x, sigma, **options)
    for b in range(4):
        alone = intrinsic_dimension(denoiser, x[b : b + 1], sigma[b].item(), chunk=9, **options)
        assert alone.item() == pytest.approx(whole[b].item(), rel=1e-4, abs=1e-3)


def test_probes_estimate_the_trace():
    denoiser, x = plane(12)[0], torch.zeros(1, 24, 1, 1)
    found = torch.cat([intrinsic_dimension(denoiser, x, 0.01, probes=16, seed=seed) for seed in range(100)])
    assert abs(found.mean() - 12) < 4 * found.std() / 10 and 0 < found.std() < 2


def test_bad_input_is_refused_by_name():
    denoiser, x = plane(3)[0], torch.zeros(2, 24, 1, 1)
    calls = {
        'method must be one of flipd, ranks': dict(method='mle'),
        "draws must be None with method='flipd', got 99": dict(draws=99),
        "probes must be None with method='ranks', got 4": dict(method='ranks', probes=4),
        'draws must be an integer >= 24, got 23': dict(method='ranks', draws=23),
        'probes must be an integer >= 2, got 1': dict(probes=1),
        'seed must be': dict(seed=-1),
        'labels must be None': dict(labels=0),
    }
    for message, options in calls.items():
        with pytest.raises(ValueError, match=message):
            intrinsic_dimension(denoiser, x, 0.1, **options)
    with pytest.raises(ValueError, match='sigma must have the shape'):
        intrinsic_dimension(denoiser, x, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match='x must be images of >= 2 numbers'):
        intrinsic_dimension(GaussianDenoiser(torch.zeros(1, 1, 1), 1.0), x[:, :1], 0.1, method='ranks')
