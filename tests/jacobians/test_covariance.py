"""The covariance of the posterior against enumeration and closed forms, at noise levels from 0.05 to 20."""

import math

import pytest
import torch
from small_denoisers import gaussian, network

from difflow import Denoiser, GaussianDenoiser, MoLRG, OptimalDenoiser, normal, posterior_covariance
from difflow.jacobians import search
from difflow.jacobians.covariance import _Calibration, _Covariance

SIGMAS = 0.05, 0.3, 1.0, 5.0, 20.0
SHAPE = 1, 4, 4
MOLRG = MoLRG(3, 16, 4, image_shape=SHAPE)


def near_images(n=12, seed=3):
    "Images some of which are so near each other that all of these noise levels leave something open"
    scales = torch.logspace(-2, 0, n).reshape(-1, 1, 1, 1)
    return (0.4 * normal((1, *SHAPE), seed) + scales * normal((n, *SHAPE), seed + 1) / 4).clamp(-1, 1)


def enumerated(images, x, sigma, member=None):
    "Return the covariances of the posterior over `images`, by all weights"
    y, out = images.flatten(1).double(), []
    for row in x.flatten(1).double():
        log_weights = -(row - y).square().sum(1) / (2 * sigma**2)
        if member is not None:
            log_weights = log_weights.masked_fill(~member, -math.inf)
        weights = log_weights.softmax(0)[:, None]
        away = y - (weights * y).sum(0)
        out.append((weights * away).T @ away)
    return torch.stack(out)


def of_subspaces(x, sigma):
    "Return the covariances of the posterior of the mixture, by the moments of its Gaussians"
    rows, eye, out = x.flatten(1).double(), torch.eye(16).double(), []
    for row in rows:
        log_weights, means, covariances = [], [], []
        for basis in MOLRG.bases:
            prior = basis @ basis.T
            total = torch.distributions.MultivariateNormal(torch.zeros(16).double(), prior + sigma**2 * eye)
            log_weights.append(total.log_prob(row))
            gain = torch.linalg.solve(prior + sigma**2 * eye, prior).T
            means.append(gain @ row)
            covariances.append(prior - gain @ prior)
        weights, means = torch.stack(log_weights).softmax(0), torch.stack(means)
        away = means - (weights[:, None] * means).sum(0)
        within = (weights[:, None, None] * torch.stack(covariances)).sum(0)
        out.append(within + (weights[:, None] * away).T @ away)
    return torch.stack(out)


def cases(sigma):
    "Yield a denoiser, noisy images and the covariances that are known"
    noise = sigma * normal((3, *SHAPE), 9)
    images = near_images()
    yield OptimalDenoiser(images), images[:3] + noise, lambda x: enumerated(images, x, sigma)
    yield MOLRG.denoiser, MOLRG.sample(3)[0] + noise, lambda x: of_subspaces(x, sigma)
    denoiser, share = gaussian(16, torch.logspace(-3, 1, 16).double(), SHAPE)
    yield denoiser, noise, lambda x: (sigma**2 * share(sigma)).expand(3, 16, 16)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('sigma', SIGMAS)
def test_covariances_are_those_known_exactly(sigma, dtype):
    for denoiser, x, known in cases(sigma):
        x = x.to(dtype)
        truth, found = known(x), posterior_covariance(denoiser, x, sigma)
        scale = truth.abs().amax((1, 2)).clamp(min=1e-30)

        def close(a, b, share=2e-5, scale=scale):
            return ((a - b).reshape(len(a), -1).abs().amax(1) <= share * scale).all()

        assert close(found.matrix().double(), truth)
        assert close(found.variance.flatten(1), truth.diagonal(dim1=1, dim2=2))
        assert close(found.trace, truth.diagonal(dim1=1, dim2=2).sum(1), 1e-4)
        assert found.trace_error.tolist() == [0, 0, 0] and found.asymmetry.max() < 1e-4
        values, vectors = found.components(3)
        expected = torch.linalg.eigvalsh(truth).flip(1)[:, :3]
        assert close(values, expected) and vectors.shape == (3, 3, *SHAPE) and vectors.dtype == dtype
        v = vectors.flatten(2).double()
        assert close(v @ truth @ v.mT, torch.diag_embed(expected))
        v = normal((2, *x.shape), 5).to(dtype)
        product = torch.einsum('bij,vbj->vbi', truth, v.flatten(2).double())
        assert close(found.product(v).flatten(2).double().movedim(1, 0), product.movedim(1, 0), 1e-4)
        assert torch.allclose(
            found.product(v[0]), found.product(v)[0], rtol=1e-3, atol=1e-6 * scale.max().item()
        )
        torch.testing.assert_close(found.deviation, found.variance.clamp(min=0).sqrt())


def test_labels_weigh_the_images_of_a_class():
    images, labels = near_images(), torch.arange(12) % 2
    denoiser, x = OptimalDenoiser(images, labels=labels), images[:2] + 0.3 * normal((2, *SHAPE))
    truth = [enumerated(images, x[i : i + 1], 0.3, labels == i)[0].trace().item() for i in (0, 1)]
    found = posterior_covariance(denoiser, x, 0.3, torch.tensor([0, 1])).trace
    assert found.tolist() == pytest.approx(truth, rel=1e-4)
    one = posterior_covariance(denoiser, x, 0.3, 1).trace
    assert one[1].item() == pytest.approx(found[1].item(), rel=1e-5) and one[0] != found[0]
    assert posterior_covariance(denoiser, x, 0.3).trace[0].item() == pytest.approx(
        enumerated(images, x, 0.3)[0].trace().item(), rel=1e-4
    )


class Turned(Denoiser):
    "A linear map that is not symmetric: no posterior mean"

    image_shape = SHAPE

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def denoise(self, x, sigma, labels):
        return (x.flatten(1) @ self.matrix.T.to(x.dtype)).reshape(x.shape)


def test_asymmetry_of_a_field_that_is_no_gradient():
    skew = normal((16, 16), 1).double()
    skew = skew - skew.T
    whole = normal((16, 16), 2).double()
    whole = whole + whole.T
    for share in (0.0, 0.1, 1.0, 10.0):
        denoiser, x = Turned((whole + share * skew) / 8), normal((2, *SHAPE)).double()
        true = share * (skew.norm() / whole.norm()).item()
        exact = posterior_covariance(denoiser, x, 1.0)
        assert exact.asymmetry.tolist() == pytest.approx([true] * 2, rel=1e-6, abs=1e-12)
        found = posterior_covariance(denoiser, x, 1.0, probes=400)
        assert ((found.asymmetry - true).abs() <= 3 * found.asymmetry_error + 1e-12).all()
        assert (found.asymmetry_error <= 0.2 * true + 1e-12).all()
    turn = Turned(torch.tensor([[0.0, -1.0], [1.0, 0.0]]).kron(torch.eye(8)))
    assert posterior_covariance(turn, x, 1.0).asymmetry.isinf().all()  # nothing of it is symmetric


def test_a_random_network_is_no_posterior_mean():
    assert posterior_covariance(network(), normal((2, *SHAPE)), 1.0).asymmetry.min() > 0.01


def test_probes_are_as_sure_as_their_error():
    denoiser, x = Turned(normal((16, 16), 1).double()), normal((2, *SHAPE)).double()
    exact = posterior_covariance(denoiser, x, 0.7)
    off = {'trace': [], 'asymmetry': []}
    for seed in range(200):
        found = posterior_covariance(denoiser, x, 0.7, probes=16, seed=seed)
        for name, z in off.items():
            z.append((getattr(found, name) - getattr(exact, name)) / getattr(found, f'{name}_error'))
    for name, z in off.items():
        z = torch.stack(z)
        assert 0.85 <= (z.abs() < 2.13).double().mean() <= 1, name  # 95 % of Student's t of 15 degrees
        assert 0.6 < z.std() < 1.8, name
    means = torch.stack(
        [posterior_covariance(denoiser, x, 0.7, probes=64, seed=s).variance for s in range(20)]
    )
    assert ((means.mean(0) - exact.variance).abs() < 5 * means.std(0) / 20**0.5).all()


def test_components_are_found_by_products_alone(monkeypatch):
    monkeypatch.setattr(search, '_matrix_of', None)
    share = 0.99 * torch.exp(-torch.arange(400).double() / 15)
    denoiser, exact = gaussian(400, share / (1 - share))
    values, vectors = posterior_covariance(denoiser, normal((2, 400, 1, 1)), 1.0).components(5)
    true, basis = torch.linalg.eigh(exact(1.0))
    assert (values - true.flip(0)[:5]).abs().max() < 1e-5
    overlap = (vectors.flatten(2).double() @ basis.flip(1)[:, :5]).abs()
    torch.testing.assert_close(overlap, torch.eye(5).double().expand(2, 5, 5), atol=2e-3, rtol=0)


def test_components_of_a_network_are_those_of_its_symmetric_part():
    denoiser, x = network(8), normal((2, 1, 8, 8))
    found = posterior_covariance(denoiser, x, 0.5)
    matrix = found.matrix().double()
    true = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).flip(1)
    for k in (2, 64):  # searched, formed
        values, vectors = found.components(k)
        torch.testing.assert_close(values, true[:, :k], rtol=0, atol=1e-4 * true.max().item())
        flat = vectors.flatten(2)
        torch.testing.assert_close(flat @ flat.mT, torch.eye(k).expand(2, k, k), atol=1e-5, rtol=0)
        largest = flat.gather(2, flat.abs().argmax(2, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize('probes', [None, 8])
def test_an_answer_does_not_depend_on_its_neighbours(probes):
    denoiser, x = network(), normal((5, *SHAPE))
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 8.0])
    whole = posterior_covariance(denoiser, x, sigma, probes=probes, chunk=64)
    for b in (0, 3):
        alone = posterior_covariance(denoiser, x[b : b + 1], sigma[b].item(), probes=probes, chunk=7)
        for name in ('trace', 'trace_error', 'asymmetry', 'variance'):
            torch.testing.assert_close(getattr(whole, name)[b], getattr(alone, name)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.components(2)[0][b], alone.components(2)[0][0], rtol=1e-4, atol=1e-5)


def test_one_level_in_a_list_is_that_of_all_images():
    x = MOLRG.sample(5)[0]
    whole, listed = (posterior_covariance(MOLRG.denoiser, x, s, chunk=32) for s in (0.5, torch.tensor([0.5])))
    assert torch.equal(whole.trace, listed.trace) and torch.equal(whole.sigma, listed.sigma)
    assert torch.equal(whole.components(2)[0], listed.components(2)[0])


class Counted(GaussianDenoiser):
    "Counts the noisy images that it is asked for"

    rows = 0

    def denoise(self, x, sigma, labels):
        self.rows += 1
        return super().denoise(x, sigma, labels)


def test_nothing_is_computed_before_it_is_asked_for():
    denoiser = Counted(torch.zeros(SHAPE), 0.25)
    found = posterior_covariance(denoiser, torch.zeros(2, *SHAPE), 1.0)
    assert denoiser.rows == 1 and 'not yet asked for' in repr(found)
    assert found.rows()
    rows = denoiser.rows
    assert found.trace.shape == found.asymmetry.shape == (2,) and 'trace' in repr(found) and found.rows()
    assert denoiser.rows == rows > 1


# Calibration


def test_exact_denoisers_are_calibrated():
    "Of 24 intervals at 95 % about 23 hold 1, whatever the noise level"
    for sigma in (0.05, 0.3, 1.0, 5.0):
        held = []
        for seed in range(24):
            x0, _ = MOLRG.sample(60, seed=seed)
            found = posterior_covariance(
                MOLRG.denoiser, x0 + sigma * normal(x0.shape, seed + 1000), sigma, chunk=960
            )
            result = found.calibration(x0)
            held.append(result.low <= 1 <= result.high)
            assert 0.7 < result.ratio < 1.4
        assert 21 <= sum(held) <= 24, sigma


def test_calibration_over_a_finite_set():
    images = near_images(40)
    denoiser, x0 = OptimalDenoiser(images), images.repeat(10, 1, 1, 1)
    for sigma in (0.05, 0.5, 3.0):
        found = posterior_covariance(denoiser, x0 + sigma * normal(x0.shape, 1), sigma, chunk=1600)
        result = found.calibration(x0, draws=10)
        assert result.low < 1 < result.high and result.high - result.low < 1.5
        every = found.calibration(x0, level=0.99)
        assert every.ratio == pytest.approx(result.ratio) and every.low < 1 < every.high


def test_an_error_that_few_images_bear_is_no_mean():
    "At a small noise level hardly any image of a finite set is confused with another: 1 is never excluded"
    images = normal((150, *SHAPE)).clamp(-1, 1)
    denoiser = OptimalDenoiser(images)
    for sigma in (0.05, 0.3, 0.5, 0.7, 1.0, 5.0):
        found = posterior_covariance(denoiser, images + sigma * normal(images.shape, 1), sigma, chunk=2400)
        result = found.calibration(images, level=0.99)
        assert math.isnan(result.ratio) or result.low <= 1 <= result.high
    assert result.high - result.low < 0.3  # at the largest level all of them bear it


@pytest.mark.parametrize('believed', [0.04, 0.5, 4.0])
def test_a_wrong_belief_shows_as_its_closed_form(believed):
    "Pixels of variance 1, a denoiser for others: it errs by (1 - g)^2 + g^2 s^2 and expects s^2 g"
    sigma, x0 = 0.7, normal((400, *SHAPE))
    denoiser = GaussianDenoiser(torch.zeros(SHAPE), believed)
    found = posterior_covariance(denoiser, x0 + sigma * normal(x0.shape, 1), sigma, chunk=6400)
    gain = believed / (believed + sigma**2)
    ratio = ((1 - gain) ** 2 + gain**2 * sigma**2) / (sigma**2 * gain)
    result = found.calibration(x0, level=0.99)
    assert result.low < ratio < result.high and not result.low < 1 < result.high
    assert result.high - result.low < 0.2 * ratio and f'{result.ratio:.3g}' in repr(result)
    assert result.expected.mean().item() == pytest.approx(16 * sigma**2 * gain, rel=1e-5)


def test_where_nothing_is_open_nothing_is_calibrated():
    denoiser, x = OptimalDenoiser(near_images(1)), normal((2, *SHAPE))
    found = posterior_covariance(denoiser, x, 0.5)
    assert found.trace.tolist() == [0, 0] and found.asymmetry.tolist() == [0, 0]
    values, vectors = found.components(2)
    assert values.abs().max() == 0 and vectors.isfinite().all()
    assert math.isnan(found.calibration(near_images(1).expand(2, *SHAPE)).ratio)
    single = posterior_covariance(MOLRG.denoiser, x[:1], 0.5).calibration(x[:1])
    assert single.low == 0 and single.high == math.inf


# What is refused, and what is kept


def test_bad_input_is_refused_by_name():
    found = posterior_covariance(MOLRG.denoiser, normal((2, *SHAPE)), 1.0)
    x = normal((2, *SHAPE))
    calls = {
        'x must have the shape': lambda: posterior_covariance(MOLRG.denoiser, x[:, :, :2], 1.0),
        'sigma must be': lambda: posterior_covariance(MOLRG.denoiser, x, -1.0),
        'probes must be an integer >= 2, got 1': lambda: posterior_covariance(
            MOLRG.denoiser, x, 1.0, probes=1
        ),
        'labels must be': lambda: posterior_covariance(MOLRG.denoiser, x, 1.0, 7),
        'k must be an integer in 1..16, got 17': lambda: found.components(17),
        r'v must be floats \(2, 1, 4, 4\) or': lambda: found.product(x[:1]),
        'x0 must be': lambda: found.calibration(x[:1]),
        'x0: 32 of 32 values': lambda: found.calibration(x * math.nan),
        'level must be': lambda: found.calibration(x, level=1.0),
        'draws must divide the 2 images, got 3': lambda: found.calibration(x, draws=3),
        'image must be an integer in 0..1, got 2': lambda: found.strip(2),
        'strengths must be': lambda: found.strip(0, strengths=['a']),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_file_keeps_the_sums_and_no_denoiser(tmp_path):
    found = posterior_covariance(MOLRG.denoiser, normal((2, *SHAPE)), 1.0, probes=4)
    again = _Covariance.load(found.save(tmp_path / 'covariance.npz'))
    assert again.rows() == found.rows() and torch.equal(again.trace, found.trace)
    assert again.calibration(normal((2, *SHAPE))).ratio == found.calibration(normal((2, *SHAPE))).ratio
    for call in (again.components, again.matrix, again.strip):
        with pytest.raises(ValueError, match='a file keeps no denoiser'):
            call()


def test_a_calibration_shows_and_keeps_itself(tmp_path):
    from matplotlib.figure import Figure

    result = posterior_covariance(MOLRG.denoiser, normal((3, *SHAPE)), 1.0).calibration(
        normal((3, *SHAPE), 1)
    )
    again = _Calibration.load(result.save(tmp_path / 'calibration.npz'))
    assert again.rows() == result.rows() and repr(again) == repr(result) and '\n' not in repr(result)
    assert [type(value) for value in result.rows()[0].values()] == [int, float, float]
    ax = Figure().subplots()
    assert result.plot(ax) is ax and ax.get_xlabel() and ax.get_ylabel()


def test_a_strip_is_a_row_for_each_component():
    found = posterior_covariance(MOLRG.denoiser, normal((2, *SHAPE)), torch.tensor([1.0, 0.5]))
    one, two = (found.strip(1, k, strengths=(-1, 0, 1), scale=4) for k in (1, 2))
    assert one.width == two.width and two.height == 2 * one.height - 2
