"""Patch denoisers against direct float64 sums over windows: precision, symmetry, scales, shares, slopes."""

import math

import pytest
import torch

from difflow import OptimalDenoiser, PatchDenoiser, jacobian_spectrum, load_images, normal, sweep
from difflow.exact import patches, windows
from difflow.jacobians import jacobian
from difflow.runs import model_hash

SIGMAS = (0.002, 0.05, 0.3, 1.0, 5.0, 80.0)
KINDS = pytest.mark.parametrize('equivariant', [False, True], ids=['own', 'anywhere'])


def images(count=20, shape=(2, 7, 6), seed=0):
    "Images of independent pixels in [-1, 1]"
    return normal((count, *shape), seed).mul(0.5).clamp(-1, 1)


def wrapped(z, k):
    "All windows (n H W, C k k), row by row, pixels taken modulo the sides"
    (n, channels, high, wide), r = z.shape, k // 2
    rows = [
        z[:, :, (h + dh) % high, (w + dw) % wide]
        for h in range(high)
        for w in range(wide)
        for dh in range(-r, r + 1)
        for dw in range(-r, r + 1)
    ]
    stacked = torch.stack(rows).reshape(high * wide, k * k, n, channels)
    return stacked.permute(2, 0, 3, 1).reshape(n * high * wide, -1)


def direct(y, x, sigma, k, equivariant):
    "The definition, in float64, every difference formed"
    y, x = y.double(), x.double()
    (count, channels, high, wide), r, out = x.shape, k // 2, torch.zeros_like(x)
    sigma = torch.as_tensor(sigma).double().expand(count)
    if equivariant:
        others, middles = wrapped(y, k), y.permute(0, 2, 3, 1).reshape(-1, channels)
        levels = sigma.repeat_interleave(high * wide)
        rows = [
            (-(row - others).square().sum(1) / (2 * s**2)).softmax(0) @ middles
            for row, s in zip(wrapped(x, k), levels)
        ]
        return torch.stack(rows).reshape(count, high, wide, channels).permute(0, 3, 1, 2)
    for h in range(high):
        for w in range(wide):
            near = (..., slice(max(0, h - r), h + r + 1), slice(max(0, w - r), w + r + 1))
            far = (x[near][:, None] - y[near][None]).square().sum((2, 3, 4))
            out[:, :, h, w] = (-far / (2 * sigma[:, None] ** 2)).softmax(1) @ y[:, :, h, w]
    return out


@KINDS
@pytest.mark.parametrize('sigma', SIGMAS)
def test_exact_to_1e6_of_a_direct_sum(sigma, equivariant):
    "Noised images, midpoints of two, and points far from all"
    y = images()
    noise = sigma * normal((2, 2, 7, 6), 1)
    for centre in (y[:2], (y[:2] + y[1:3]) / 2, 3 + 0 * y[:2]):
        for k in (1, 3, 7):
            found = PatchDenoiser(y, k, equivariant)(centre + noise, sigma)
            assert (found - direct(y, centre + noise, sigma, k, equivariant)).abs().max() < 1e-6


@pytest.mark.parametrize('sigma', [0.002, 0.02, 0.2, 1.0, 1.6, 3.0, 80.0])
def test_exact_to_1e5_on_images_of_digits(sigma):
    "uint8 pixels, many equal windows, and near copies, whose weights compete at every noise level"
    digits = load_images('mnist5k', max_images=300).images
    copies = (
        (digits[:1].int() + normal((300, 1, 28, 28), 17).round().clamp(-1, 1).int())
        .clamp(0, 255)
        .to(torch.uint8)
    )
    for y in (digits, copies):
        x = y[:2] / 127.5 - 1 + sigma * normal((2, 1, 28, 28), 2)
        for k in (3, 11):
            found = PatchDenoiser(y, k)(x, sigma)
            assert (found - direct(y / 127.5 - 1, x, sigma, k, False)).abs().max() < 1e-5


@pytest.mark.parametrize('sigma', [0.9, 1.8, 4.0])
def test_many_equal_windows_do_not_round_one_way(sigma):
    "Half of the windows of digits are blank: thousands of equal terms in one sum"
    y = load_images('mnist5k', max_images=25).images
    x = y[:1] / 127.5 - 1 + sigma * normal((1, 1, 28, 28), 18)
    found = PatchDenoiser(y, 3, equivariant=True)(x, sigma)
    assert (found - direct(y / 127.5 - 1, x, sigma, 3, True)).abs().max() < 3e-6


def test_float64_is_used_where_float32_would_show(monkeypatch):
    y = (300 + 0.3 * normal((100, 3, 12, 12), 3)).double()
    x = y[:2] + 0.5 * normal((2, 3, 12, 12), 4)
    expected, denoiser = direct(y, x, 0.5, 5, False), PatchDenoiser(y, 5)
    assert (denoiser(x, 0.5) - expected).abs().max() < 1e-5
    monkeypatch.setitem(windows._MOST, windows._Own, math.inf)
    z = PatchDenoiser(30 * y, 5)
    assert (z(30 * x, 0.3) - direct(30 * y, 30 * x, 0.3, 5, False)).abs().max() > 1e-5


@pytest.mark.parametrize('k', [13, 11])
@pytest.mark.parametrize('sigma', [0.05, 1.0, 20.0])
def test_a_window_that_covers_the_image_is_the_optimal_denoiser(k, sigma):
    y = images(30)
    x = y[:5] + sigma * normal((5, 2, 7, 6), 1)
    gap = (PatchDenoiser(y, k)(x, sigma) - OptimalDenoiser(y)(x, sigma)).abs().max()
    assert gap < 1e-5 if k == 13 else sigma != 1 or gap > 1e-4


@pytest.mark.parametrize('shift', [(1, 0), (3, -2)])
def test_windows_of_all_places_commute_with_shifts(shift):
    y, x = images(), normal((3, 2, 7, 6), 5)
    moved = lambda z: z.roll(shift, (2, 3))
    for k, gap in ((3, 1e-6), (9, 1e-6)):
        denoiser = PatchDenoiser(y, k, equivariant=True)
        assert (denoiser(moved(x), 0.7) - moved(denoiser(x, 0.7))).abs().max() < gap
    own = PatchDenoiser(y, 3)
    assert (own(moved(x), 0.7) - moved(own(x, 0.7))).abs().max() > 0.1


def test_one_pixel_is_enough_where_pixels_are_independent():
    "All combinations of values: the optimal denoiser knows no more than the pixel itself"
    values = torch.tensor([-1.0, -0.2, 0.9])
    y = torch.cartesian_prod(*[values] * 6).reshape(-1, 1, 2, 3)
    x = normal((4, 1, 2, 3), 6)
    alone = (-(x[..., None] - values).square().double() / (2 * 0.6**2)).softmax(-1) @ values.double()
    for denoiser in (PatchDenoiser(y, 1), PatchDenoiser(y, 3), OptimalDenoiser(y)):
        assert (denoiser(x, 0.6) - alone).abs().max() < 1e-5
    assert (PatchDenoiser(y, 1, equivariant=True)(x, 0.6) - alone).abs().max() < 1e-5


@KINDS
def test_neither_batch_nor_block_matter(equivariant):
    y, sigma = images(50), torch.tensor([0.05, 0.5, 2.0, 9.0, 0.3])
    x = y[:5] + sigma.reshape(-1, 1, 1, 1) * normal((5, 2, 7, 6), 7)
    denoiser = PatchDenoiser(y, 5, equivariant)
    whole = denoiser(x, sigma)
    assert (whole - direct(y, x, sigma, 5, equivariant)).abs().max() < 1e-6
    alone = torch.cat([denoiser(x[[i]], sigma[i]) for i in range(5)])
    blocks = [PatchDenoiser(y, 5, equivariant, block=block)(x, sigma) for block in (1, 7, 1000)]
    for other in (alone, *blocks):
        assert (other - whole).abs().max() < 1e-6


def test_many_rows_go_in_parts(monkeypatch):
    y, x = images(), normal((7, 2, 7, 6), 8)
    expected = PatchDenoiser(y, 3)(x, 1.0)
    monkeypatch.setattr(patches, '_ROWS_AT_ONCE', 2)
    torch.testing.assert_close(PatchDenoiser(y, 3)(x, 1.0), expected)


def test_kinds_of_images_and_of_noisy_images():
    y = load_images('digits', max_images=40)
    x = y.tensor([3]) + normal((1, 1, 8, 8), 9)
    expected = direct(y.images.double() / 127.5 - 1, x, 1.0, 3, False)
    for kind in (y, y.images, y.tensor(), y.tensor().double()):
        for dtype, gap in ((torch.float32, 1e-6), (torch.float64, 1e-6), (torch.bfloat16, 1e-2)):
            found = PatchDenoiser(kind, 3)(x.to(dtype), 1.0)
            assert found.dtype == dtype
            assert (found - direct(y.tensor(), x.to(dtype), 1.0, 3, False)).abs().max() < gap
    assert (PatchDenoiser(y, 3, dtype=torch.float64)(x.double(), 1.0) - expected).abs().max() < 1e-12
    assert PatchDenoiser(y, 3)(torch.zeros(0, 1, 8, 8), 1.0).shape == (0, 1, 8, 8)


@KINDS
def test_a_class_is_the_denoiser_of_its_images_alone(equivariant):
    y, labels, x = images(12), torch.arange(12) % 3, normal((4, 2, 7, 6), 10)
    denoiser, asked = PatchDenoiser(y, 3, equivariant, labels=labels), torch.tensor([2, 0, 3, 2])
    found = denoiser(x, 0.5, asked)
    for i, c in enumerate(asked.tolist()):
        some = y if c == 3 else y[labels == c]
        assert (found[i] - direct(some, x[[i]], 0.5, 3, equivariant)[0]).abs().max() < 1e-6
    assert torch.equal(denoiser(x, 0.5), PatchDenoiser(y, 3, equivariant)(x, 0.5))


# Scales


@pytest.mark.parametrize('pairs', [[(0.3, 3), (2.0, 7), (math.inf, 13)], {0.3: 3, 2.0: 7, math.inf: 13}])
def test_a_window_for_every_noise_level(pairs):
    y, sigma = images(), torch.tensor([0.1, 0.3, 0.31, 2.0, 2.1, 50.0])
    x = y[:6] + sigma.reshape(-1, 1, 1, 1) * normal((6, 2, 7, 6), 11)
    denoiser, sides = PatchDenoiser(y, pairs), [3, 3, 7, 7, 13, 13]
    assert [denoiser.patch_at(s) for s in (0.1, 0.3, 0.31, 2.0, 2.1, 50.0)] == sides
    exact = torch.tensor([0.1, 0.3, 0.31, 2.0, 2.1, 50.0], dtype=torch.float64)
    alone = torch.cat([PatchDenoiser(y, k)(x[[i]], exact[i].item()) for i, k in enumerate(sides)])
    assert (denoiser(x, exact) - alone).abs().max() < 1e-6


def test_calibration_finds_the_windows_that_an_answer_was_made_with():
    y = images(60, (1, 9, 9))
    hidden = PatchDenoiser(y, [(0.5, 3), (2.0, 9), (math.inf, 5)])
    found = PatchDenoiser(y, 1).calibrate(hidden, y[:8], [0.3, 0.9, 1.5, 4.0], patches=[1, 3, 5, 7, 9])
    assert [k for _, k in found.scales] == [3, 9, 5]
    edges = [s for s, _ in found.scales]
    assert edges == pytest.approx([math.sqrt(0.3 * 0.9), math.sqrt(1.5 * 4.0), math.inf])
    assert found.patch_at(0.3) == 3 and found.patch_at(4.0) == 5


# A share of the windows


@KINDS
def test_the_error_of_a_share_covers(equivariant):
    "Over many shares the answer of all windows lies within twice the stated error as often as it should"
    y = images(200 if not equivariant else 30, (1, 6, 6))
    x, sigma = y[:2] + 1.5 * normal((2, 1, 6, 6), 12), 1.5
    truth, inside, ratios = PatchDenoiser(y, 3, equivariant)(x, sigma), [], []
    for seed in range(40):
        part = PatchDenoiser(y, 3, equivariant, share=0.25, seed=seed)
        gap, error = part(x, sigma) - truth, part.error(x, sigma)
        inside.append((gap.abs() < 2 * error).float().mean())
        ratios.append((gap / error).square().mean())
    assert 0.9 < torch.stack(inside).mean() < 0.99
    assert 0.7 < torch.stack(ratios).mean().sqrt() < 1.3


@KINDS
def test_a_share_is_of_its_seed_alone(equivariant):
    y, x = images(30), normal((2, 2, 7, 6), 13)
    one, same, other = (
        PatchDenoiser(y, 3, equivariant, share=0.3, seed=seed, block=block)
        for seed, block in ((1, 5), (1, 30), (2, 30))
    )
    torch.testing.assert_close(one(x, 1.0), same(x, 1.0))
    assert (one(x, 1.0) - other(x, 1.0)).abs().max() > 1e-3
    whole = PatchDenoiser(y, 3, equivariant)
    assert (whole.error(x, 1.0) == 0).all() and (one.error(x, 1.0) > 0).all()
    assert len({model_hash(d) for d in (one, other, whole)}) == 3 and model_hash(one) == model_hash(same)


# Derivatives


@KINDS
@pytest.mark.parametrize('sigma', [0.1, 0.8, 4.0])
def test_the_jacobian_is_that_of_central_differences(sigma, equivariant):
    y = images(15, (2, 4, 5)).double()
    x, step, eye = y[:2] + sigma * normal((2, 2, 4, 5), 14), 1e-4 * sigma, torch.eye(40).double()
    at = lambda z: direct(y, z, sigma, 3, equivariant).flatten(1)
    moves = step * eye.reshape(-1, 2, 4, 5)
    truth = torch.stack([(at(x + move) - at(x - move)) / (2 * step) for move in moves], 2)
    most = truth.abs().max()
    for dtype, gap in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        denoiser = PatchDenoiser(y, 3, equivariant, dtype=dtype)
        assert (jacobian(denoiser, x.to(dtype), sigma) - truth).abs().max() < gap * max(1, most)


@KINDS
def test_every_way_to_differentiate_agrees(equivariant):
    y, x, v = images(), normal((2, 2, 7, 6), 15), normal((3, 2, 2, 7, 6), 16)
    denoiser = PatchDenoiser(y, 5, equivariant)
    pulled = denoiser.jacobian_product(x, 0.9, v, transposed=True)
    pushed = denoiser.jacobian_product(x, 0.9, v)
    assert (
        (pushed * v.roll(1, 0)).sum()
        - (v * denoiser.jacobian_product(x, 0.9, v.roll(1, 0), transposed=True)).sum()
    ).abs() < 1e-3
    inputs = x.clone().requires_grad_()
    (automatic,) = torch.autograd.grad(denoiser(inputs, 0.9), inputs, v[0])
    torch.testing.assert_close(automatic, pulled[0])
    torch.testing.assert_close(torch.func.jvp(lambda z: denoiser(z, 0.9), (x,), (v[1],))[1], pushed[1])
    each = torch.func.vmap(lambda image: denoiser(image[None], torch.tensor(0.9))[0])(x)
    torch.testing.assert_close(each, denoiser(x, 0.9))
    with torch.inference_mode():
        torch.testing.assert_close(denoiser.jacobian_product(x, 0.9, v[0], transposed=True), pulled[0])
    assert jacobian_spectrum(denoiser, x, 0.9).values.isfinite().all()


def test_pixels_outside_the_window_change_nothing():
    y = images(20, (1, 6, 6))
    full = jacobian(PatchDenoiser(y, 3), y[:1] + 0.5, 1.0)[0].reshape(6, 6, 6, 6)
    places = torch.arange(6)
    near = (places[:, None] - places).abs() <= 1
    inside = near[:, None, :, None] & near[None, :, None, :]
    assert (full[~inside] == 0).all() and (full[inside] != 0).all()


# It is a denoiser


def test_it_sweeps_moves_and_is_hashed():
    y = load_images('digits', max_images=50)
    denoiser = PatchDenoiser(y, 3)
    assert sweep(denoiser, y.tensor([0, 1]), [0, 5, 10], steps=10).images.isfinite().all()
    others = PatchDenoiser(y, 5), PatchDenoiser(y, 3, equivariant=True), PatchDenoiser(y[:-1], 3)
    others += (PatchDenoiser(y, 3, labels=y.labels), PatchDenoiser(y, [(1.0, 3), (math.inf, 5)]))
    assert len({model_hash(d) for d in (denoiser, *others)}) == 6
    assert model_hash(denoiser) == model_hash(PatchDenoiser(y.images, 3, block=7))
    x = y.tensor([0]) + normal((1, 1, 8, 8))
    assert torch.equal(PatchDenoiser(y, 3).half()(x, 1.0), denoiser(x, 1.0))


@pytest.mark.cuda
@KINDS
def test_on_a_gpu(equivariant):
    y = images()
    for sigma in SIGMAS:
        x = y[:2] + sigma * normal((2, 2, 7, 6), 1)
        found = PatchDenoiser(y, 3, equivariant).cuda()(x.cuda(), sigma).cpu()
        assert (found - direct(y, x, sigma, 3, equivariant)).abs().max() < 1e-5


def test_bad_input():
    y = torch.zeros(3, 1, 8, 6)
    good = PatchDenoiser(y, 3)
    for make, words in (
        (lambda: PatchDenoiser(y, 4), 'patch must be odd, 1, 3, ... 15.* got 4'),
        (lambda: PatchDenoiser(y, 17), 'patch must be an integer in 1..15, got 17'),
        (lambda: PatchDenoiser(y, 0), 'patch must be an integer in 1..15, got 0'),
        (lambda: PatchDenoiser(y, None), 'patch must be an integer in 1..15, got None'),
        (lambda: PatchDenoiser(y, [(1.0, 3)]), 'patch must have rising sigmas up to inf'),
        (lambda: PatchDenoiser(y, [(2.0, 3), (1.0, 5), (math.inf, 7)]), 'rising'),
        (lambda: PatchDenoiser(y, {-1.0: 3, math.inf: 5}), 'sigma must be .* > 0.*got -1.0'),
        (lambda: PatchDenoiser(y, [3, 5]), r'pairs \(sigma, odd\), got 3'),
        (lambda: PatchDenoiser(y, []), 'rising sigmas up to inf'),
        (lambda: PatchDenoiser(y, 3, share=0.0), 'share must be .* got 0.0'),
        (lambda: PatchDenoiser(y, 3, equivariant=1), 'equivariant must be bool, got 1'),
        (lambda: PatchDenoiser(y[:0], 3), 'N >= 1'),
        (lambda: good(torch.zeros(1, 1, 8, 8), 1.0), r'x must have the shape \(B, 1, 8, 6\)'),
        (lambda: good(y, 0.0), 'sigma must be'),
        (lambda: good.jacobian_product(y, 1.0, y[:1]), 'vectors must be'),
        (lambda: good.calibrate(good, y, [2.0, 1.0]), 'sigmas must rise'),
        (lambda: good.calibrate(good, y, [1.0], patches=[2]), 'patch must be odd'),
        (lambda: good.patch_at(-1.0), 'sigma must be'),
    ):
        with pytest.raises(ValueError, match=words):
            make()
