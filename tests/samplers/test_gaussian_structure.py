"""What a Gaussian explains of a walk, against closed forms; and walks that start from it."""

import math

import numpy as np
import pytest
import torch

from difflow import (
    Denoiser,
    GaussianDenoiser,
    ImageSet,
    MoLRG,
    OptimalDenoiser,
    Scheduler,
    gaussian_structure,
    load_images,
    normal,
    sample,
)

QUIET = dict(progress=False)
PHI = torch.special.ndtr


def covariance(seed, size=8):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return torch.from_numpy((basis * rng.gamma(0.6, 1, size)) @ basis.T)


def gaussian(seed):
    mean = torch.from_numpy(np.random.default_rng(seed).standard_normal(8)).reshape(1, 2, 4).float()
    return GaussianDenoiser(mean, covariance(seed))


def rms(distances):
    return distances.square().mean(1).sqrt()


@pytest.mark.parametrize('sampler', ['heun', 'euler', 'ddim', 'dpmpp_2m'])
@pytest.mark.parametrize('steps', [6, 18])
def test_of_a_gaussian_everything_is_explained_and_saved(sampler, steps):
    r = gaussian_structure(gaussian(3), gaussian(3), 20, steps=steps, sampler=sampler, **QUIET)
    assert r.saved == r.evaluations == (2 * steps - 1 if sampler == 'heun' else steps)
    assert r.shares[0, 0].item() == pytest.approx(1) and r.shares[1, :-1].numpy() == pytest.approx(
        1, abs=1e-6
    )
    assert r.shares[2, :-1].numpy() == pytest.approx(1, abs=1e-3)  # float32 against D - x at sigma = 0.002
    assert steps < 18 or (r.shares[0].min() > 0.9 and r.equal.all())
    assert rms(r.errors)[-1] < r.error and r.sigma_start == r.sigmas[-2]


def test_what_the_state_lacks_is_the_error_of_the_steps():
    missed = [
        1 - gaussian_structure(gaussian(3), gaussian(3), 20, steps=n, **QUIET).shares[0].min().item()
        for n in (20, 40, 80)
    ]
    assert missed[0] > 8 * missed[1] > 64 * missed[2] > 0


def test_shares_between_two_gaussians_are_known():
    "Along the path of one Gaussian, all three shares of another are sums over components"
    a, b = torch.tensor([4.0, 1.0, 0.25, 0.04]).double(), torch.tensor([2.0, 1.5, 0.5, 0.0]).double()
    one, other = (GaussianDenoiser(torch.zeros(1, 2, 2), v.float().reshape(1, 2, 2)) for v in (a, b))
    r = gaussian_structure(one, other, 40, 5, steps=120, **QUIET)
    z = normal((40, 4), 5).double()
    for i, s in enumerate(r.sigmas.tolist()):
        x, g = (80 * z * ((v + s**2) / (v + 80**2)).sqrt() for v in (a, b))
        assert r.shares[0, i].item() == pytest.approx(
            1 - ((x - g) ** 2).sum().item() / (x**2).sum().item(), abs=2e-3
        )
        if s == 0:
            continue
        answer, guess = (x * v / (v + s**2) for v in (a, b))
        missed = ((answer - guess) ** 2).sum()
        assert r.shares[1, i].item() == pytest.approx(
            1 - (missed / (answer**2).sum()).item(), abs=2e-3 + 2e-3 * (missed / (answer**2).sum()).item()
        )
        score = (missed / ((answer - x) ** 2).sum()).item()
        assert r.shares[2, i].item() == pytest.approx(1 - score, abs=2e-3 + 1e-2 * score)


def quantile(probability, sigma, length):
    "Invert the distribution function of N(+-length, sigma^2) mixed half and half, by bisection"
    low, high = torch.full_like(probability, -2e3), torch.full_like(probability, 2e3)
    for _ in range(200):
        middle = (low + high) / 2
        below = (PHI((middle - length) / sigma) + PHI((middle + length) / sigma)) / 2 < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def test_two_points_in_closed_form_at_every_level():
    "In one dimension the flow keeps the quantile: the state of the optimal denoiser is known on any noise"
    length = 3.0
    points = torch.tensor([length, -length]).reshape(2, 1, 1, 1)
    r = gaussian_structure(OptimalDenoiser(points), points, 40, 2, steps=40, **QUIET)
    x_first = 80 * normal((40, 1), 2).double().flatten()
    p = (PHI((x_first - length) / 80) + PHI((x_first + length) / 80)) / 2
    for i, s in list(enumerate(r.sigmas.tolist()))[::4]:
        x = quantile(p, max(s, 1e-3), length)
        g = x_first * math.sqrt((length**2 + s**2) / (length**2 + 80**2))
        assert r.shares[0, i].item() == pytest.approx(
            1 - ((x - g) ** 2).sum().item() / (x**2).sum().item(), abs=4e-3
        )
        if s > 0.01:
            answer, guess = length * torch.tanh(length * x / s**2), x * length**2 / (length**2 + s**2)
            truth = 1 - ((answer - guess) ** 2).sum() / (answer**2).sum()
            assert r.shares[1, i].item() == pytest.approx(truth.item(), abs=4e-3)


@pytest.mark.parametrize('k', [2, 5, 10])
def test_points_at_right_angles_collapse_below_speciation(k):
    "The end is the point of the largest of k normal numbers; the Gaussian's is linear in them"
    points = 8 * torch.eye(k).reshape(k, 1, 1, k)
    r = gaussian_structure(OptimalDenoiser(points), points, 300, steps=8, **QUIET)
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    largest = torch.trapezoid(z * k * PHI(z) ** (k - 1) * (-(z**2) / 2).exp() / math.sqrt(2 * math.pi), z)
    end = 2 * largest.item() / (math.sqrt(k) * (1 - 1 / k)) - 1
    low, high = r.intervals[0, -1]
    assert low < end < high
    speciation = 8 / math.sqrt(k)
    assert r.shares[0, r.sigmas > 4 * speciation].min() > 0.98
    assert speciation / 2 < r.sigmas[r.shares[1, :-1].argmin()] < 2 * speciation
    assert 0 < r.saved < r.evaluations and not r.equal[-1]


class Counting(Denoiser):
    "A denoiser that counts its calls, row by row"

    def __init__(self, inner):
        super().__init__()
        self.inner, self.image_shape, self.rows_seen = inner, inner.image_shape, 0

    def denoise(self, x, sigma, labels):
        self.rows_seen += len(x)
        return self.inner(x, sigma)


@pytest.mark.parametrize('sampler', ['heun', 'dpmpp_2m', 'ddim'])
def test_the_table_is_what_separate_walks_give(sampler):
    images = normal((12, 1, 2, 4)).clamp(-1, 1)
    denoiser = Counting(OptimalDenoiser(images))
    r = gaussian_structure(denoiser, images, 6, 4, steps=7, sampler=sampler, **QUIET)
    own, calls = sample(denoiser, 6, sampler, seeds=4, steps=7, progress=False), []
    for i, sigma in enumerate(r.sigmas[:-1].tolist()):
        x, levels = r.start(6, 4, sigma), r.scheduler(sigma)
        before = denoiser.rows_seen
        end = sample(denoiser, x, sampler, scheduler=levels, progress=False)
        calls.append((denoiser.rows_seen - before) // 6)
        far = (end - own).flatten(1).norm(dim=1)
        assert r.distances[i].numpy() == pytest.approx(far.numpy(), abs=2e-4)
    assert [r.evaluations - c for c in calls] == r.skipped[:-1].tolist()
    roots = r.sigmas[:-1] ** (1 / 7)
    finer = [((1 - k / 4) * a + k / 4 * b) ** 7 for a, b in zip(roots, roots[1:]) for k in range(4)]
    finer = Scheduler.from_sigmas(sorted([*map(float, finer), r.sigmas[-2].item()]))
    truth = sample(denoiser, 6, sampler, seeds=4, scheduler=finer, progress=False)
    assert r.errors[0].numpy() == pytest.approx((own - truth).flatten(1).norm(dim=1).numpy(), abs=2e-4)


class SoftTop(Denoiser):
    "Ends in no point of a set: half of the answer is the optimal one's, half the Gaussian's"

    def __init__(self, images):
        super().__init__()
        x = images.tensor()
        self.parts = OptimalDenoiser(images), GaussianDenoiser(x.mean(0), x.flatten(1).double().T.cov())
        self.image_shape = images.image_shape

    def denoise(self, x, sigma, labels):
        return sum(part(x, sigma) for part in self.parts) / 2


def test_end_points_that_are_the_same_are_equal():
    "Walks of one image end there, from wherever they start: rounding decides nothing"
    image = normal((1, 1, 2, 4)).clamp(-1, 1)
    r = gaussian_structure(OptimalDenoiser(image), image, 4, steps=6, **QUIET)
    assert r.equal.all() and r.saved == r.evaluations and r.errors.max() < 1e-4


def test_the_verdict_is_that_of_its_table():
    images = load_images('digits', max_images=60)
    denoiser = SoftTop(images)
    r = gaussian_structure(denoiser, images, 32, steps=10, **QUIET)
    rows = r.rows()
    own = rows[0]['error']
    equal = [min(row['distance'], row['error']) <= own for row in rows]
    assert equal == [row['equal'] for row in rows] and own == pytest.approx(r.error)
    assert own > 1e-3
    assert r.saved == max(row['skipped'] for row, good in zip(rows, equal) if good)
    assert r.sigma_start == min(row['sigma'] for row, good in zip(rows[:-1], equal) if good)
    assert rows[-1]['output'] is None and rows[-1]['skipped'] == 19 and not rows[-1]['equal']
    end = sample(denoiser, r.start(32), scheduler=r.scheduler(), progress=False)
    own_end = sample(denoiser, 32, steps=10, progress=False)
    far = (end - own_end).flatten(1).norm(dim=1).square().mean().sqrt()
    there = rms(r.distances)[r.sigmas == r.sigma_start]
    assert far.item() == pytest.approx(there.item(), rel=1e-3)


@pytest.mark.parametrize('count', [5, 30])
def test_mean_and_covariance_are_those_of_the_images(count):
    "Of fewer images than pixels, too"
    images = normal((count, 1, 2, 4)).clamp(-1, 1)
    r = gaussian_structure(OptimalDenoiser(images), images, 2, steps=2, **QUIET)
    flat = images.flatten(1).double()
    assert r.mean.numpy() == pytest.approx(flat.mean(0).numpy(), abs=1e-9)
    truth = (flat - flat.mean(0)).T @ (flat - flat.mean(0)) / count
    assert ((r.basis * r.values) @ r.basis.T).numpy() == pytest.approx(truth.numpy(), abs=1e-9)
    same = [
        gaussian_structure(OptimalDenoiser(images), data, 3, steps=4, **QUIET).shares[0]
        for data in (images, ImageSet.of(images), GaussianDenoiser(images.mean(0), truth))
    ]
    for other in same[1:]:
        assert other.numpy() == pytest.approx(same[0].numpy(), abs=1e-2)
    assert same[2].numpy() == pytest.approx(same[0].numpy(), abs=1e-5)


def test_batches_and_companions_change_nothing():
    images = normal((12, 1, 2, 4)).clamp(-1, 1)
    d = OptimalDenoiser(images)
    one = gaussian_structure(d, images, 6, steps=5, **QUIET)
    batched = gaussian_structure(d, images, 6, steps=5, batch_size=4, **QUIET)
    more = gaussian_structure(d, images, 10, steps=5, **QUIET)
    for other in (batched.distances, more.distances[:, :6]):
        assert other.numpy() == pytest.approx(one.distances.numpy(), abs=1e-4)
    assert batched.shares.numpy() == pytest.approx(one.shares.numpy(), abs=1e-5)
    each = gaussian_structure(d, images, 3, seeds=[7, 8, 9], steps=5, **QUIET)
    again = gaussian_structure(d, images, 2, seeds=[9, 7], steps=5, **QUIET)
    assert each.errors[:, [2, 0]].numpy() == pytest.approx(again.errors.numpy(), abs=1e-4)


def test_intervals_cover():
    "The share at the end of two points, over many draws of a few samples"
    points, truth, inside = torch.tensor([4.0, -4.0]).reshape(2, 1, 1, 1), 2 * math.sqrt(2 / math.pi) - 1, []
    for seed in range(40):
        seeds = range(60 * seed, 60 * seed + 60)
        r = gaussian_structure(OptimalDenoiser(points), points, 60, seeds, steps=4, sampler='ddim', **QUIET)
        low, high = r.intervals[0, -1]
        inside.append(bool(low < truth < high))
    assert np.mean(inside) > 0.85


def test_classes_go_with_the_walks():
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    d = OptimalDenoiser(images, labels=torch.tensor([0, 1]))
    r = gaussian_structure(d, images[1:], 5, labels=1, steps=4, batch_size=2, **QUIET)
    assert r.saved == r.evaluations and r.shares[1, :-1].numpy() == pytest.approx(1)
    wrong = gaussian_structure(d, images[1:], 5, labels=torch.tensor([0, 0, 1, 1, 0]), steps=4, **QUIET)
    assert rms(wrong.errors)[-1] > 1 > wrong.error


def test_low_rank_mixture_and_any_scheduler():
    mixture = MoLRG(2, 12, 2)
    r = gaussian_structure(
        mixture.denoiser, mixture.sample(300)[0], 20, scheduler=Scheduler.linear().respace('12'), **QUIET
    )
    assert len(r.sigmas) == 13 and r.sigmas[0] == Scheduler.linear().respace('12').sigmas[-1]
    assert (r.shares[0] <= 1).all() and 0 <= r.saved <= r.evaluations == 23


class Costly(Denoiser):
    "No call may reach it"

    image_shape = (1, 2, 4)

    def denoise(self, x, sigma, labels):
        raise AssertionError('work before the check')


IMAGES = normal((5, 1, 2, 4)).clamp(-1, 1)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(sampler='ddpm'), 'sampler must be ddim, euler, heun or dpmpp_2m, whose .* got ddpm'),
        (dict(sampler='rk4'), 'sampler must be one of ddpm, ddim'),
        (dict(n=1), 'n must be an integer >= 2, got 1'),
        (dict(steps=0), 'steps must be an integer >= 1, got 0'),
        (dict(seeds=[1]), 'seeds must be one for each of 4 images, got 1'),
        (dict(labels=1), 'labels must be None: this denoiser has no classes'),
        (dict(batch_size=0), 'batch_size must be an integer >= 1, got 0'),
        (dict(scheduler=4), 'scheduler must be Scheduler or None, got 4'),
        (dict(denoiser=3), 'denoiser must be Denoiser, got 3'),
        (dict(data='digits'), 'data must be ImageSet or Tensor or GaussianDenoiser'),
        (dict(data=IMAGES[:0]), r'data must have shape \(B,C,H,W\), none of them 0'),
        (dict(data=IMAGES * math.nan), 'data: 40 of 40 values are NaN or infinite'),
        (dict(data=IMAGES.mT), r'data has images of \(1, 4, 2\), the model takes \(1, 2, 4\)'),
        (dict(data=GaussianDenoiser(torch.zeros(1, 4, 2), 1.0)), r'data must be a Gaussian of the shape'),
        (dict(data=load_images('digits', max_images=3)), r'data must be images \(1, 2, 4\), got \(1, 8, 8\)'),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        gaussian_structure(**dict(denoiser=Costly(), data=IMAGES, n=4) | options, **QUIET)


def test_bad_starts():
    r = gaussian_structure(gaussian(1), gaussian(1), 2, steps=3, **QUIET)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match='sigma must be a number > 0'):
            r.start(2, sigma=sigma)
    with pytest.raises(ValueError, match='sigma must be one of the levels of the walk, as 80, got 70'):
        r.scheduler(70.0)
    with pytest.raises(ValueError, match='seeds must be one for each of 2 images, got 3'):
        r.start(2, [1, 2, 3])
