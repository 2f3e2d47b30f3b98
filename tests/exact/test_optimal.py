"""The optimal denoiser against the formula in float64: hard rounding, classes, derivatives, devices."""

import copy
import math

import pytest
import torch

from difflow import Denoiser, GaussianDenoiser, ImageSet, OptimalDenoiser, load_images, sweep
from difflow.exact import optimal, posteriors
from difflow.exact.posteriors import _solve
from difflow.exact.weighted_sums import _relative_weights
from difflow.runs import model_hash


def direct(pixels, x, sigma):
    "Return mean and weights by the formula as it stands, in float64; `pixels` (N, D) in [-1, 1]"
    sigma = torch.as_tensor(sigma).double().expand(len(x)).reshape(-1, 1)
    squares = torch.stack([(row - pixels).square().sum(1) for row in x.double().flatten(1)])
    weights = (-squares / (2 * sigma**2)).softmax(1)
    return (weights @ pixels).reshape(x.shape), weights


def unit(images):
    return images.double().flatten(1) / 127.5 - 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def digits():
    return load_images('digits')


def coloured(count):
    return torch.randint(
        0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def one_hot():
    "1000 images at the same distance from each other"
    images = torch.zeros(1000, 1, 32, 32, dtype=torch.uint8)
    images.view(1000, -1)[torch.arange(1000), torch.arange(1000)] = 255
    return images


def near_copies():
    "1000 copies of one image, every pixel off by a grey level at most, and one image far away"
    steps = torch.randint(-1, 2, (1000, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    return torch.cat([(coloured(1).long() + steps).clamp(0, 255).to(torch.uint8), coloured(2)[1:]])


SETS = {
    'noise': lambda: coloured(600),
    'one hot': one_hot,
    'near copies': near_copies,
    'mnist5k': lambda: load_images('mnist5k').images[:1000],
}


@pytest.mark.parametrize('sigma', [1e-3, 0.03, 0.1, 1.0, 3.0, 10.0, 100.0, 1e3])
@pytest.mark.parametrize('name', SETS)
def test_exact_to_1e5_of_float64(name, sigma):
    images = SETS[name]()
    denoiser, noise = (
        OptimalDenoiser(images),
        torch.randn(4, *images.shape[1:], generator=torch.Generator().manual_seed(2)),
    )
    x0 = images[:4].float() / 127.5 - 1
    for centre in (x0, (x0 + x0.roll(1, 0)) / 2, x0.mean(0, keepdim=True)):
        x = centre + sigma * noise
        found = denoiser(x, sigma)
        assert found.dtype == torch.float32 and found.isfinite().all()
        assert (found - direct(unit(images), x, sigma)[0]).abs().max() < 1e-5


def test_rows_in_doubt_are_done_again_in_float64():
    "Far from zero, rounding shows if the second attempt is left out; with it, it does not"
    generator = torch.Generator().manual_seed(3)
    images = 300 + 0.3 * torch.randn(500, 3, 16, 16, generator=generator)
    denoiser, sigma = OptimalDenoiser(images), 3.0
    x = images[:4].double() + sigma * torch.randn(4, 3, 16, 16, generator=generator, dtype=torch.float64)
    z, variance = denoiser._inside(x), denoiser._variance(torch.tensor(sigma), 4)
    once = _solve(denoiser._images(None), z, variance, 16, True, torch.float32)
    truth, weights = direct(images.double().flatten(1), x, sigma)
    assert once.doubt.all()
    left_alone = (denoiser._outside(once.mean, x) - truth).abs().max()
    assert (denoiser(x, sigma) - truth).abs().max() < 1e-6 < 1e-5 < left_alone
    assert (OptimalDenoiser(images, dtype=torch.float64)(x, sigma) - truth).abs().max() < 1e-6
    torch.testing.assert_close(denoiser.weights(x, sigma).double(), weights, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('sigma', [1e-30, 1e-8, 1e8, 1e15])
def test_never_infinite_far_outside_the_range(sigma, digits):
    x = digits.tensor([0, 1]) + min(sigma, 1e6) * torch.randn(2, 1, 8, 8)
    found = OptimalDenoiser(digits).examine(x, sigma)
    assert all(value.isfinite().all() for value in found)
    assert found.mean.abs().max() < 1 + 1e-5


def test_no_denormal_numbers_come_up(digits):
    "At this noise level most weights would be denormal in float32"
    scores = torch.linspace(-300, 0, 3001)[None]
    weights = _relative_weights(
        scores.clone(), torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    )
    assert ((weights == 0) | (weights > 1e-27)).all()
    torch.testing.assert_close(weights, torch.where(scores > -60, scores.exp(), 0.0))


@pytest.mark.parametrize('block', [1, 7, 600, 10_000])
def test_blocks_do_not_matter(block):
    images, x = coloured(60), 20 * torch.randn(3, 3, 32, 32)
    expected = direct(unit(images), x, 20.0)[0]
    for exact in (1, 16, 100):
        assert (OptimalDenoiser(images, block=block, exact=exact)(x, 20.0) - expected).abs().max() < 1e-5


def test_kinds_of_images_agree(digits):
    x = digits.tensor([3]) + torch.randn(1, 1, 8, 8)
    expected = OptimalDenoiser(digits)(x, 1.0)
    floats = digits.tensor()
    for images in (digits.images, floats, floats.double(), ImageSet(digits.images)):
        torch.testing.assert_close(OptimalDenoiser(images)(x, 1.0), expected, atol=1e-5, rtol=0)
    rounded = floats.bfloat16()
    torch.testing.assert_close(
        OptimalDenoiser(rounded)(x, 1.0),
        direct(rounded.double().flatten(1), x, 1.0)[0].float(),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.float64])
def test_it_leaves_what_it_is_given_alone(dtype, digits):
    images = digits.images[:50].to(dtype)
    before, x = images.clone(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    kept = x.clone()
    OptimalDenoiser(images, dtype=torch.float64, labels=digits.labels[:50]).jacobian_product(x, 1.0, x)
    assert torch.equal(images, before) and torch.equal(x, kept)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kinds_of_noisy_images(dtype, digits):
    x = (digits.tensor([3]) + torch.randn(1, 1, 8, 8)).to(dtype)
    for denoiser in (OptimalDenoiser(digits), copy.deepcopy(OptimalDenoiser(digits)).half()):
        found = denoiser(x, 1.0)
        assert found.dtype == dtype
        error = (found.double() - direct(unit(digits.images), x, 1.0)[0]).abs().max()
        assert error < max(1e-5, torch.finfo(dtype).eps)


def test_an_offset_and_a_scale_change_nothing():
    "Float images need not lie in [-1, 1]"
    images, x = torch.randn(500, 3, 8, 8), torch.randn(2, 3, 8, 8)
    expected = OptimalDenoiser(images)(x, 0.7)
    found = OptimalDenoiser(30 * images + 100)(30 * x + 100, 21.0)
    torch.testing.assert_close((found - 100) / 30, expected, atol=2e-5, rtol=0)


def test_for_a_gaussian_cloud_it_nears_the_gaussian_denoiser():
    "In two dimensions 20,000 images stand for the distribution they are drawn from"
    covariance = torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    gaussian = GaussianDenoiser(torch.zeros(1, 1, 2), covariance)
    generator = torch.Generator().manual_seed(4)
    images = gaussian.draw(torch.randn(20_000, 1, 1, 2, generator=generator))
    x = images[:50] + 0.5 * torch.randn(50, 1, 1, 2, generator=generator)
    assert (OptimalDenoiser(images)(x, 0.5) - gaussian(x, 0.5)).abs().mean() < 0.02


# Classes and per-row noise levels


@pytest.fixture(scope='module')
def by_class(digits):
    return OptimalDenoiser(digits, labels=digits.labels)


def test_classes_and_noise_levels_row_by_row(digits, by_class):
    labels, sigma = torch.tensor([3, 10, 0, 3, 7]), torch.tensor([0.5, 1.0, 2.0, 0.1, 30.0])
    x = digits.tensor(range(5)) + sigma.reshape(-1, 1, 1, 1) * torch.randn(5, 1, 8, 8)
    found, weights = by_class.examine(x, sigma, labels), by_class.weights(x, sigma, labels)
    for i, (label, s) in enumerate(zip(labels.tolist(), sigma.tolist())):
        members = torch.arange(len(digits)) if label == 10 else (digits.labels == label).nonzero()[:, 0]
        mean, expected = direct(unit(digits.images[members]), x[[i]], s)
        assert (found.mean[i] - mean[0]).abs().max() < 1e-5
        torch.testing.assert_close(weights[i, members].double(), expected[0], atol=1e-6, rtol=1e-4)
        assert weights[i].sum() == pytest.approx(1, abs=1e-5)
        assert members[expected[0].argmax()] == found.indices[i, 0]
    torch.testing.assert_close(by_class(x, sigma), OptimalDenoiser(digits)(x, sigma))
    assert (by_class.num_classes, by_class.null_class, OptimalDenoiser(digits).num_classes) == (
        10,
        True,
        None,
    )


def test_the_density_of_all_is_the_mean_of_the_classes(digits, by_class):
    x, shares = (
        digits.tensor([0]) + 0.7 * torch.randn(1, 1, 8, 8),
        torch.bincount(digits.labels) / len(digits),
    )
    each = torch.cat([by_class.log_density(x, 0.7, torch.tensor([c])) for c in range(10)])
    torch.testing.assert_close(
        (each + shares.double().log()).logsumexp(0), by_class.log_density(x, 0.7)[0], atol=1e-5, rtol=0
    )


def test_the_density_is_that_of_the_score(digits):
    "Tweedie: D = x + sigma^2 grad ln p, by central differences"
    denoiser, sigma, x = (
        OptimalDenoiser(digits, dtype=torch.float64),
        0.6,
        digits.tensor([1]).double() + 0.6 * torch.randn(1, 1, 8, 8).double(),
    )
    steps = 1e-4 * torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    slope = (denoiser.log_density(x + steps, sigma) - denoiser.log_density(x - steps, sigma)) / 2e-4
    torch.testing.assert_close(
        denoiser(x, sigma), x + sigma**2 * slope.reshape(1, 1, 8, 8), atol=1e-5, rtol=0
    )


# The k nearest


@pytest.mark.parametrize('sigma', [0.05, 0.4, 1.0, 5.0])
@pytest.mark.parametrize('k', [1, 3, 40])
def test_top_k_and_its_bound(k, sigma, digits):
    denoiser, x = OptimalDenoiser(digits), digits.tensor(range(20)) + sigma * torch.randn(20, 1, 8, 8)
    mean, limit = denoiser.top(x, sigma, k)
    weights, places = direct(unit(digits.images), x, sigma)[1].topk(k)
    expected = (
        ((weights / weights.sum(1, keepdim=True))[:, :, None] * unit(digits.images)[places])
        .sum(1)
        .reshape(x.shape)
    )
    assert (mean - expected).abs().max() < 1e-5
    assert ((mean - denoiser(x, sigma)).flatten(1).abs().amax(1) <= limit).all()
    assert torch.equal(OptimalDenoiser(digits, top_k=k)(x, sigma), mean)


def test_top_all_is_all(digits):
    small = OptimalDenoiser(digits.images[:30])
    x = 3 * torch.randn(4, 1, 8, 8)
    mean, limit = small.top(x, 3.0, 30)
    torch.testing.assert_close(mean, small(x, 3.0), atol=1e-6, rtol=0)
    assert (limit < 1e-5).all() and (small.examine(x, 3.0, k=30).rest == 0).all()


# Derivatives


@pytest.mark.parametrize('sigma', [0.02, 0.5, 2.0, 20.0])
def test_jacobian_is_the_covariance(sigma, digits, by_class):
    x, labels = digits.tensor([0, 1]) + sigma * torch.randn(2, 1, 8, 8), torch.tensor([0, 10])
    vectors = torch.randn(5, 2, 1, 8, 8)
    found = by_class.jacobian_product(x, sigma, vectors, labels)
    for i, members in enumerate([digits.labels == 0, digits.labels >= 0]):
        y = unit(digits.images[members])
        mean, weights = direct(y, x[[i]], sigma)
        covariance = ((y - mean.flatten()) * weights.T).T @ (y - mean.flatten()) / sigma**2
        expected = vectors[:, i].flatten(1).double() @ covariance
        assert (found[:, i].flatten(1) - expected).abs().max() < 2e-5 * max(1, expected.abs().max())


def test_every_way_to_differentiate_agrees(digits):
    denoiser, x, v = (
        OptimalDenoiser(digits),
        digits.tensor([4, 5]) + torch.randn(2, 1, 8, 8),
        torch.randn(2, 1, 8, 8),
    )
    expected = denoiser.jacobian_product(x, 1.0, v)
    inputs = x.clone().requires_grad_()
    denoiser(inputs, 1.0).backward(v)
    torch.testing.assert_close(inputs.grad, expected)
    torch.testing.assert_close(torch.func.jvp(lambda x: denoiser(x, 1.0), (x,), (v,))[1], expected)
    full = torch.func.jacrev(lambda x: denoiser(x, 1.0))(x[:1]).reshape(64, 64)
    torch.testing.assert_close(full @ v[0].flatten(), expected[0].flatten(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.func.jacfwd(lambda x: denoiser(x, 1.0))(x[:1]).reshape(64, 64), full, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(full, full.T, atol=1e-5, rtol=1e-4)
    one_by_one = torch.func.vmap(lambda image: denoiser(image[None], torch.tensor(1.0))[0])(x)
    torch.testing.assert_close(one_by_one, denoiser(x, 1.0))


def test_the_study_of_jacobians_takes_it(digits):
    "Two images: the posterior moves along one direction alone, their difference"
    jacobian_spectrum = pytest.importorskip('difflow.jacobians.spectra').jacobian_spectrum
    two = OptimalDenoiser(digits.images[:2])
    middle = digits.tensor([0, 1]).mean(0, keepdim=True)
    values = jacobian_spectrum(two, middle, 1.0).values[0]
    difference = (digits.tensor([0]) - digits.tensor([1])).square().sum()
    assert values[0] == pytest.approx(difference.item() / 4, rel=1e-4) and values[1] < 1e-3 * values[0]


# It is a denoiser


def test_it_sweeps_and_is_hashed_by_its_images(digits):
    denoiser = OptimalDenoiser(digits)
    assert isinstance(denoiser, Denoiser) and denoiser.image_shape == (1, 8, 8) and len(denoiser) == 1797
    result = sweep(denoiser, digits.tensor([0, 1]), [0, 5, 10], steps=10)
    assert torch.equal(result.images[0], digits.tensor([0, 1])) and result.images.isfinite().all()
    ids = [
        model_hash(d)
        for d in (
            denoiser,
            OptimalDenoiser(digits.images),
            OptimalDenoiser(digits.images[:-1]),
            OptimalDenoiser(digits, top_k=3),
            OptimalDenoiser(digits, labels=digits.labels),
        )
    ]
    assert ids[0] == ids[1] and len(set(ids)) == 4


def test_no_rows_give_no_rows(digits):
    assert OptimalDenoiser(digits)(torch.zeros(0, 1, 8, 8), 1.0).shape == (0, 1, 8, 8)


def test_many_rows_go_in_parts(digits, monkeypatch):
    denoiser, x = OptimalDenoiser(digits, labels=digits.labels), torch.randn(37, 1, 8, 8)
    labels = torch.arange(37) % 11
    expected = denoiser(x, 1.0, labels)
    monkeypatch.setattr(optimal, '_ROWS_AT_ONCE', 2)
    monkeypatch.setattr(posteriors, '_PIXELS_AT_ONCE', 64)
    torch.testing.assert_close(denoiser(x, 1.0, labels), expected, atol=1e-5, rtol=0)


@pytest.mark.cuda
def test_on_a_gpu(digits):
    x = digits.tensor(range(16)) + torch.randn(16, 1, 8, 8)
    for sigma in (1e-3, 0.1, 1.0, 10.0, 1e3):
        found = OptimalDenoiser(digits).cuda()(x.cuda(), sigma)
        assert (found.cpu() - direct(unit(digits.images), x, sigma)[0]).abs().max() < 1e-5


# What is refused


def test_bad_input(digits, by_class):
    x, good = torch.zeros(2, 1, 8, 8), OptimalDenoiser(digits)
    for make, words in (
        (lambda: OptimalDenoiser(digits[[]]), 'N >= 1'),
        (lambda: OptimalDenoiser(torch.zeros(3, 8, 8)), r'\(N, C, H, W\)'),
        (lambda: OptimalDenoiser('digits'), "got 'digits'"),
        (lambda: OptimalDenoiser(torch.zeros(3, 1, 8, 8).long()), 'images must be floats in'),
        (lambda: OptimalDenoiser(torch.full((3, 1, 8, 8), math.nan)), 'finite'),
        (lambda: OptimalDenoiser(digits, block=0), 'block must be an integer >= 1'),
        (lambda: OptimalDenoiser(digits, top_k=0), 'top_k must be an integer in 1..1797, got 0'),
        (lambda: OptimalDenoiser(digits, exact=0), 'exact'),
        (lambda: OptimalDenoiser(digits, labels=digits.labels.float()), 'labels must be integers'),
        (lambda: OptimalDenoiser(digits, labels=digits.labels - 1), 'labels must be integers in 0..'),
        (lambda: OptimalDenoiser(digits, dtype=torch.float16), 'float32, torch.float64'),
        (lambda: good(x, -1.0), 'sigma'),
        (lambda: good(x, torch.ones(3)), r'shape \(\) or \(2,\)'),
        (lambda: good(x, 1.0, torch.zeros(2).long()), 'no classes'),
        (lambda: by_class(x, 1.0, torch.tensor([0, 11])), '0..9'),
        (lambda: good.examine(x, 1.0, k=0), 'k must be an integer in 1..1797'),
        (lambda: good.top(x, 1.0, 2000), 'k must be an integer in 1..1797'),
        (lambda: good.jacobian_product(x, 1.0, x[:1]), 'vectors must be'),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_images_of_several_sizes_are_refused(tmp_path):
    from difflow.data import save_images

    save_images(torch.zeros(1, 1, 8, 8), tmp_path, ['a'])
    save_images(torch.zeros(1, 1, 9, 9), tmp_path, ['b'])
    with pytest.raises(ValueError, match='pass size='):
        OptimalDenoiser(load_images(tmp_path))
