"""The distance of two probability flows against closed forms, and what is refused."""

import math

import numpy as np
import pytest
import torch

from difflow import (
    DDPMDenoiser,
    Denoiser,
    EDMDenoiser,
    GaussianDenoiser,
    ImageSet,
    OptimalDenoiser,
    Scheduler,
    UNet,
    euler,
    flow_distance,
    normal,
    rp_score,
    sample,
)
from difflow.features import Features

QUIET = dict(progress=False)
ZERO = torch.zeros(1, 2, 4)


def covariance(seed, size=8):
    "A random covariance of some directions of much variance and some of little"
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return torch.from_numpy((basis * rng.gamma(0.6, 1, size)) @ basis.T)


def function(values, power):
    "A function of a symmetric matrix, by its spectrum"
    w, v = torch.linalg.eigh(values)
    return (v * power(w.clamp(min=0))) @ v.T


def flow(mean, cov, x, sigma):
    "Where the flow of a Gaussian carries noise `x` at level `sigma`, (N, D) float64"
    return mean + (x - mean) @ function(cov, lambda w: (w / (w + sigma**2)).sqrt())


def exact(mean_a, cov_a, mean_b, cov_b, sigma):
    "The distance of two Gaussians from level `sigma`, without sampling"
    shift = flow(mean_a, cov_a, torch.zeros(1, len(mean_a)), sigma) - flow(
        mean_b, cov_b, torch.zeros(1, len(mean_b)), sigma
    )
    spread = function(cov_a, lambda w: (w / (w + sigma**2)).sqrt()) - function(
        cov_b, lambda w: (w / (w + sigma**2)).sqrt()
    )
    return (shift.square().sum() + sigma**2 * spread.square().sum()).sqrt().item()


def gaussian(mean, cov):
    return GaussianDenoiser(mean.reshape(1, 2, 4).float(), cov)


def pair(seed):
    rng = np.random.default_rng(100 + seed)
    means = torch.from_numpy(rng.standard_normal((2, 8)) / 2)
    return means[0], covariance(2 * seed), means[1], covariance(2 * seed + 1)


@pytest.mark.parametrize('seed', range(4))
def test_two_gaussians_that_do_not_commute(seed):
    mean_a, cov_a, mean_b, cov_b = pair(seed)
    value, interval = flow_distance(gaussian(mean_a, cov_a), gaussian(mean_b, cov_b), 400, seed, **QUIET)
    truth = exact(mean_a, cov_a, mean_b, cov_b, 80.0)
    assert interval[0] < truth < interval[1]
    x = 80.0 * normal((400, 8), seed).double()
    drawn = (flow(mean_a, cov_a, x, 80.0) - flow(mean_b, cov_b, x, 80.0)).square().sum(1).mean().sqrt()
    assert value == pytest.approx(drawn.item(), rel=3e-3)


@pytest.mark.parametrize('sampler', ['dpmpp_2m', 'heun', 'euler', 'ddim'])
def test_the_error_of_the_walk_falls_with_the_steps(sampler):
    mean_a, cov_a, mean_b, cov_b = pair(7)
    x = 80.0 * normal((50, 8)).double()
    drawn = (flow(mean_a, cov_a, x, 80.0) - flow(mean_b, cov_b, x, 80.0)).square().sum(1).mean().sqrt().item()
    a, b = gaussian(mean_a, cov_a), gaussian(mean_b, cov_b)
    errors = [
        abs(flow_distance(a, b, 50, steps=n, sampler=sampler, **QUIET).value - drawn) for n in (40, 80, 160)
    ]
    gain = 1.7 if sampler in ('euler', 'ddim') else 2.8
    assert errors[0] > gain * errors[1] > gain**2 * errors[2]


def test_commuting_gaussians_have_the_distance_of_their_roots():
    values = torch.tensor([[4.0, 1.0, 0.25, 0.0], [1.0, 1.0, 1.0, 0.5]])
    a, b = (
        GaussianDenoiser(torch.full((1, 2, 2), m), v.reshape(1, 2, 2)) for m, v in zip((0.0, 0.5), values)
    )
    truth = (4 * 0.25 + (values[0].sqrt() - values[1].sqrt()).square().sum()).sqrt().item()
    value, (low, high) = flow_distance(a, b, 800, **QUIET)
    assert low < truth < high and high - low < 0.2


def test_a_shift_is_a_shift():
    "Two Gaussians of one covariance differ by the same vector at every sample"
    a, b = (GaussianDenoiser(torch.full((1, 2, 2), m), 0.5) for m in (0.0, 0.3))
    found = flow_distance(a, b, 20, **QUIET)
    truth = 0.3 * 2 * (1 - math.sqrt(0.5 / (0.5 + 80**2)))
    assert found.distances.numpy() == pytest.approx(truth, rel=1e-3)
    assert found.interval == pytest.approx((truth, truth), rel=1e-3)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    mean_a, cov_a, mean_b, cov_b = pair(3)
    truth, inside = exact(mean_a, cov_a, mean_b, cov_b, 80.0), []
    for seed in range(200):
        x = 80.0 * normal((100, 8), 1000 + seed).double()
        low, high = flow_distance(flow(mean_a, cov_a, x, 80.0), flow(mean_b, cov_b, x, 80.0)).interval
        inside.append(low < truth < high)
    assert 0.90 < np.mean(inside) < 0.98


def test_not_less_than_the_distance_of_wasserstein():
    for seed in range(5):
        mean_a, cov_a, mean_b, cov_b = pair(seed)
        root = function(cov_a, torch.sqrt)
        cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
        squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
        assert exact(mean_a, cov_a, mean_b, cov_b, 1e6) ** 2 > squared * (1 - 1e-9)
        found = flow_distance(gaussian(mean_a, cov_a), gaussian(mean_b, cov_b), 100, **QUIET)
        assert found.interval[1] > squared.sqrt() * 0.999


def test_a_metric():
    models = [gaussian(*pair(1)[:2]), gaussian(*pair(2)[:2]), OptimalDenoiser(normal((5, 1, 2, 4)))]
    d = torch.tensor([[flow_distance(a, b, 12, steps=30, **QUIET).value for b in models] for a in models])
    assert torch.equal(d, d.T) and d.diagonal().eq(0).all()
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        assert 0 < d[i, k] <= d[i, j] + d[j, k]


def test_two_points_are_known():
    "Noise goes to the nearer of two points: of sets that share one, half of the noise goes to the other"
    point = torch.tensor([6.0, 0.0]).reshape(1, 1, 1, 2)
    a, b = OptimalDenoiser(torch.cat([point, -point])), OptimalDenoiser(torch.cat([2 * point, -2 * point]))
    found = flow_distance(a, b, 64, **QUIET)
    assert found.distances.numpy() == pytest.approx(6.0, rel=1e-4)
    c = OptimalDenoiser(torch.cat([point, -point]).flip(3))
    assert flow_distance(a, c, 64, **QUIET).distances.numpy() == pytest.approx(6 * math.sqrt(2), rel=1e-4)


def test_batches_and_companions_change_nothing():
    a, b = gaussian(*pair(1)[:2]), gaussian(*pair(2)[:2])
    one = flow_distance(a, b, 10, steps=20, **QUIET).distances
    for other in (
        flow_distance(a, b, 10, steps=20, batch_size=3, **QUIET).distances,
        flow_distance(a, b, 30, steps=20, **QUIET).distances[:10],
    ):
        assert one.numpy() == pytest.approx(other.numpy(), rel=1e-4)
    each = flow_distance(a, b, 3, seeds=[5, 6, 7], steps=20, **QUIET).distances
    again = flow_distance(a, b, 2, seeds=[7, 5], steps=20, **QUIET).distances
    assert each[[2, 0]].numpy() == pytest.approx(again.numpy(), rel=1e-4)


def test_ready_made_samples_say_the_same():
    a, b = gaussian(*pair(1)[:2]), gaussian(*pair(2)[:2])
    levels = Scheduler.karras(20)
    x, y = (sample(d, 16, 'heun', scheduler=levels, seeds=3, progress=False) for d in (a, b))
    found = flow_distance(a, b, 16, 3, sampler='heun', scheduler=levels, **QUIET)
    for one, other in ((x, y), (x.numpy(), y.numpy()), (x.double(), y)):
        again = flow_distance(one, other, 16)
        assert torch.allclose(again.distances, found.distances, rtol=1e-6)
        assert again.interval == pytest.approx(found.interval)
    assert found.made.startswith('heun, 20 steps') and again.made == 'ready-made'
    truth = (x - y).double().flatten(1).square().sum(1)
    assert found.value == pytest.approx(truth.mean().sqrt().item(), rel=1e-6)
    sets = [ImageSet.of(t.clamp(-1, 1)) for t in (x, y)]
    clamped = (x.clamp(-1, 1) - y.clamp(-1, 1)).double().flatten(1).square().sum(1).mean().sqrt()
    assert flow_distance(*sets).value == pytest.approx(clamped.item(), rel=1e-5)


def test_descriptors_and_rp_read_the_same_samples():
    x, y = normal((40, 1, 2, 4)), normal((40, 1, 2, 4), 1)
    unit = lambda images: torch.nn.functional.normalize(images.flatten(1), dim=1)
    found, rp = flow_distance(x, y, features=unit), rp_score(x, y, extract=unit)
    assert found.distances.square().numpy() == pytest.approx(2 - 2 * rp.similarities.numpy(), abs=1e-5)
    assert flow_distance(unit(x), unit(y)).value == pytest.approx(found.value)
    scaled = flow_distance(x, y, features=lambda images: 3 * images.flatten(1)[:, :2])
    assert scaled.value == pytest.approx(3 * flow_distance(x[..., :1, :2], y[..., :1, :2]).value, rel=1e-5)


def test_samples_that_are_not_paired_are_refused():
    unit = torch.nn.functional.normalize(normal((6, 4)))
    one, other = (Features(unit, seeds=torch.arange(6) + k, model='a' * 64) for k in (0, 1))
    with pytest.raises(ValueError, match='6 of 6 seeds differ, first in row 0: 0 and 1'):
        flow_distance(one, other)
    with pytest.raises(ValueError, match='features are of different descriptors: model'):
        flow_distance(one, Features(unit, seeds=torch.arange(6), model='b' * 64))
    assert flow_distance(one, one).value == 0
    with pytest.raises(ValueError, match='6 and 5 samples: row i of both is of one seed'):
        flow_distance(unit, unit[:5])
    with pytest.raises(
        ValueError, match=r'a and b must be samples of one shape, got \(1, 2, 4\) and \(1, 4, 2\)'
    ):
        flow_distance(torch.zeros(3, 1, 2, 4), torch.zeros(3, 1, 4, 2))


class Ranged(Denoiser):
    "Always the mean, within a range of noise levels"

    image_shape = (1, 2, 2)

    def __init__(self, low, high):
        super().__init__()
        self.sigma_min, self.sigma_max = low, high

    def denoise(self, x, sigma, labels):
        assert self.sigma_min * 0.999 <= sigma.min() and sigma.max() <= self.sigma_max * 1.001
        return torch.zeros_like(x)


def test_both_start_from_the_same_noise():
    "Two ranges of levels have one in common, and a grid of 1000 steps is no other start"
    found = flow_distance(Ranged(0.01, 50.0), Ranged(0.001, 20.0), 4, **QUIET)
    assert found.value == 0 and found.made.endswith('from sigma 20')
    with pytest.raises(ValueError, match='a and b must have noise levels in common, got 0.01..1 and 2..50'):
        flow_distance(Ranged(0.01, 1.0), Ranged(2.0, 50.0), 4, **QUIET)
    torch.manual_seed(0)
    net = UNet(8, 1, 32, 1, 1, (), (1,))
    ddpm, edm = DDPMDenoiser(net), EDMDenoiser(net)
    found = flow_distance(ddpm, edm, 2, steps=4, **QUIET)
    assert found.made.endswith('4 steps from sigma 80') and found.value > 0
    own = flow_distance(ddpm, ddpm, 2, steps=4, **QUIET)
    assert own.made.endswith(f'from sigma {ddpm.steps(4).sigmas[-1]:.4g}')


def test_classes():
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    d = OptimalDenoiser(images, labels=torch.tensor([0, 1]))
    e = OptimalDenoiser(images.flip(0), labels=torch.tensor([0, 1]))
    assert flow_distance(d, e, 8, labels=1, steps=10, **QUIET).value == pytest.approx(4.0)
    assert flow_distance(d, d, 2, labels=torch.tensor([0, 1]), steps=10, **QUIET).value == 0
    with pytest.raises(ValueError, match='labels must be in 0..1'):
        flow_distance(d, e, 8, labels=7, **QUIET)


def test_the_two_numbers():
    found = flow_distance(normal((5, 3)), normal((5, 3), 1))
    value, interval = found
    assert (value, interval) == (found.value, found.interval) == (found[0], found[1]) == tuple(found)
    assert float(found) == value and interval[0] < value < interval[1]


class Costly(Denoiser):
    "No call may reach it"

    image_shape = (1, 2, 4)

    def denoise(self, x, sigma, labels):
        raise AssertionError('work before the check')


G, S = Costly(), normal((4, 1, 2, 4))


@pytest.mark.parametrize(
    'arguments, words',
    [
        ((G, G), 'n must be an integer >= 2, got None'),
        ((G, G, 1), 'n must be an integer >= 2, got 1'),
        ((G, S, 4), 'a and b must both be denoisers or samples, got one of each'),
        ((S, G, 4), 'a and b must both be denoisers or samples, got one of each'),
        ((S, S, 5), 'n must be 4, got 5'),
        ((S[:1], S[:1]), 'a must have at least 2 rows, got 1'),
        ((S, 'no-such.npz'), 'no-such.npz'),
        ((S, 3), 'b must be a Denoiser, samples'),
        ((S, S * math.nan), 'b: 4 of 4 rows hold NaN or infinity'),
        ((S.long(), S), 'a must be floats'),
        ((G, GaussianDenoiser(torch.zeros(1, 4, 2), 1.0), 4), r'of one shape, got \(1, 2, 4\) and'),
        ((G, G, 4, [1, 2]), 'seeds must be one for each of 4 images, got 2'),
        ((G, G, 4, -1), 'seeds must be an integer in'),
    ],
)  # fmt: skip
def test_bad_input(arguments, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        flow_distance(*arguments, **QUIET)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(sampler='ddpm'), 'sampler must be ddim, euler, heun or dpmpp_2m, whose .* got ddpm'),
        (dict(sampler='rk4'), 'sampler must be one of ddpm, ddim'),
        (dict(features=3), 'features must be a function of images, got 3'),
        (dict(labels=0), 'labels must be None: this denoiser has no classes'),
        (dict(scheduler=3), 'scheduler must be Scheduler or None, got 3'),
        (dict(batch_size=0), 'batch_size must be an integer >= 1, got 0'),
        (dict(steps=0), 'steps must be an integer >= 1, got 0'),
    ],
)  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        flow_distance(G, G, 4, **options, **QUIET)


def test_arguments_of_a_walk_do_not_go_with_samples():
    for name, value in dict(seeds=3, labels=0, scheduler=Scheduler.karras(3)).items():
        with pytest.raises(ValueError, match=f'{name} must be None: a and b are ready-made'):
            flow_distance(S, S, **{name: value})


def test_a_sampler_may_be_given_itself():
    a, b = gaussian(*pair(1)[:2]), gaussian(*pair(2)[:2])
    one, other = (flow_distance(a, b, 4, sampler=s, steps=9, **QUIET).value for s in ('euler', euler))
    assert one == other
