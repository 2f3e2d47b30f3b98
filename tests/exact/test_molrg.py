"""The mixture of low-rank Gaussians: its samples and its denoiser."""

import math

import pytest
import torch

from difflow import GaussianDenoiser, MoLRG, normal
from difflow.exact import MoLRGDenoiser
from difflow.exact.molrg import _default_shape, _equal_classes


@pytest.mark.parametrize('orthogonal', [True, False])
def test_bases_are_orthonormal(orthogonal):
    bases = MoLRG(3, 20, 5, seed=3, orthogonal=orthogonal).bases
    torch.testing.assert_close(bases.mT @ bases, torch.eye(5).double().expand(3, 5, 5), atol=1e-12, rtol=0)
    across = (bases[0].T @ bases[1]).abs().max()
    assert across < 1e-12 if orthogonal else across > 0.05


def test_seeds():
    assert torch.equal(MoLRG(seed=1).bases, MoLRG(seed=1).bases) and not torch.equal(
        MoLRG(seed=1).bases, MoLRG(seed=2).bases
    )
    mixture = MoLRG()
    assert torch.equal(mixture.sample(9, 1)[0], mixture.sample(9, 1)[0])
    assert not torch.equal(mixture.sample(9, 1)[0], mixture.sample(9, 2)[0])


def test_samples_have_the_covariance_of_their_class():
    mixture, n = MoLRG(2, 12, 3, seed=0), 40_000
    x, classes = mixture.sample(n)
    assert (
        x.shape == (n, 3, 2, 2) and x.dtype == torch.float32 and classes.bincount().tolist() == [n // 2] * 2
    )
    for k in range(2):
        part = x[classes == k].flatten(1).double()
        exact = mixture.bases[k] @ mixture.bases[k].T
        assert (part.T @ part / len(part) - exact).abs().max() < 5 * math.sqrt(2 / len(part))
        assert part.mean(0).abs().max() < 5 / math.sqrt(len(part))


def test_pixel_deviation_of_the_published_set():
    assert MoLRG(2, 48, 7).sample(20_000)[0].std().item() == pytest.approx(math.sqrt(7 / 48), rel=0.02)


@pytest.mark.parametrize('n, k, counts', [(7, 2, [4, 3]), (10, 3, [4, 3, 3]), (2, 3, [1, 1, 0])])
def test_equal_classes(n, k, counts):
    classes = _equal_classes(n, k)
    assert torch.equal(classes, classes.sort().values) and sorted(
        classes.bincount(minlength=k).tolist()
    ) == sorted(counts)


def test_shapes():
    assert [_default_shape(n) for n in (3, 12, 48, 3072, 7, 24)] == [
        (3, 1, 1),
        (3, 2, 2),
        (3, 4, 4),
        (3, 32, 32),
        (7, 1, 1),
        (24, 1, 1),
    ]
    assert MoLRG(1, 16, 2, image_shape=(1, 4, 4)).sample(3)[0].shape == (3, 1, 4, 4)


@pytest.mark.parametrize('sigma', [0.1, 1.0, 10.0])
def test_labels(sigma):
    mixture = MoLRG(2, 12, 3, seed=0)
    x = 3 * normal((4, 3, 2, 2), seeds=1).double()
    one = GaussianDenoiser(torch.zeros(3, 2, 2), mixture.bases[1] @ mixture.bases[1].T)
    labels = torch.ones(4).long()
    torch.testing.assert_close(mixture.denoiser(x, sigma, labels), one(x, sigma), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mixture.denoiser(x, sigma, 2 * labels), mixture.denoiser(x, sigma)
    )  # 2: no class
    with pytest.raises(ValueError, match='labels must be in 0..1'):
        mixture.denoiser(x, sigma, 3 * labels)


def test_denoiser_is_the_gradient_of_the_density():
    "Tweedie: D = x + sigma^2 grad log p, with p written down from the covariances alone"
    mixture, sigma = MoLRG(3, 6, 2, seed=0, orthogonal=False), 0.7
    x = normal((5, 6), seeds=1).double().requires_grad_()
    covariances = mixture.bases @ mixture.bases.mT + sigma**2 * torch.eye(6)
    parts = [torch.distributions.MultivariateNormal(torch.zeros(6).double(), c) for c in covariances]
    log_p = torch.logsumexp(torch.stack([p.log_prob(x) for p in parts]), 0)
    score = torch.autograd.grad(log_p.sum(), x)[0]
    found = mixture.denoiser(x.detach().reshape(5, 6, 1, 1), sigma).flatten(1)
    torch.testing.assert_close(found, x.detach() + sigma**2 * score, atol=1e-6, rtol=0)


def test_loss_of_the_exact_denoiser_is_the_least():
    mixture = MoLRG(2, 12, 3, seed=0)
    x = mixture.sample(4000)[0]
    sigma, noise = torch.full((4000,), 0.8), normal(x.shape, seeds=1)
    exact = mixture.denoiser.loss(x, None, sigma, noise).mean()
    for seed in range(3):
        turned = torch.linalg.qr(mixture.bases + 0.1 * normal(mixture.bases.shape, seed).double()).Q
        assert MoLRGDenoiser(turned, (3, 2, 2)).loss(x, None, sigma, noise).mean() > exact


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: MoLRG(7, 48, 7), 'n_classes . class_dim must be at most ambient_dim = 48, got 49'),
        (lambda: MoLRG(7, 48, 49, orthogonal=False), 'class_dim must be at most ambient_dim = 48, got 49'),
        (lambda: MoLRG(0, 48, 7), 'n_classes must be an integer >= 1, got 0'),
        (lambda: MoLRG(2, 48, 7.0), 'class_dim must be an integer >= 1, got 7.0'),
        (lambda: MoLRG(2, 48, 7, image_shape=(3, 4, 5)), 'image_shape must hold 48 numbers'),
        (lambda: MoLRG().sample(0), 'n must be an integer >= 1, got 0'),
        (lambda: MoLRGDenoiser(torch.ones(1, 4, 2), (4, 1, 1)), 'orthonormal columns, off by'),
        (lambda: MoLRGDenoiser(torch.ones(4, 2), (4, 1, 1)), r'bases must be floats \(K, D, d\)'),
    ],
)
def test_bad_mixtures_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
