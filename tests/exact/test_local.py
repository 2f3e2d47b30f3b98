"""The local denoiser against the direct sum in float64, its windows against the formula, its derivative."""

import copy

import pytest
import torch

from difflow import LocalDenoiser, OptimalDenoiser, load_images, normal
from difflow.exact import local as module
from difflow.jacobians import jacobian


def published(y, sigma, threshold=0.02, floor=1e-6):
    "Return the windows (D, D) by the published recipe, from pixels (N, D) in float64"
    covariance = y.T.cov(correction=0).reshape(y.shape[1], y.shape[1])
    identity = torch.eye(len(covariance), dtype=y.dtype)
    filtered = torch.linalg.solve(covariance + sigma**2 * identity, covariance).T
    diagonal = filtered.diagonal().clone()
    diagonal[diagonal.abs() < floor] = 1
    filtered = filtered / diagonal[:, None]
    return filtered.abs() >= threshold * filtered.abs().max()


def direct(y, x, sigma, windows):
    "Return the formula as it stands, in float64: every square, every weight"
    out = []
    for row in x.double().flatten(1):
        squares = (row - y).square() @ windows.double()
        out.append(((-squares / (2 * sigma**2)).softmax(0) * y).sum(0))
    return torch.stack(out).reshape(x.shape)


def in_float64(images):
    pixels = images.images if hasattr(images, 'images') else images
    return (
        pixels.flatten(1).double() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels.flatten(1).double()
    )


def coloured():
    return normal((60, 3, 5, 4), seeds=1).clamp(-1, 1)


def with_copies():
    "Images of which two are the same, one differs by one grey level, and two pixels never vary"
    images = torch.randint(
        0, 256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )
    images[1] = images[0]
    images[2] = images[0].long().add(1).clamp(max=255).to(torch.uint8)
    images[:, :, 0, :2] = 7
    return images


SETS = {
    'digits': lambda: load_images('digits')[:600],
    'coloured': coloured,
    'copies': with_copies,
    'mnist5k': lambda: load_images('mnist5k', split='train')[:400],
    'blocks': lambda: (
        normal((50, 1, 3, 3), seeds=3).clamp(-1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    ),
}


@pytest.mark.parametrize('sigma', [0.002, 0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 80.0])
@pytest.mark.parametrize('name', SETS)
def test_exact_to_1e5_of_float64(name, sigma):
    images = SETS[name]()
    denoiser, y = LocalDenoiser(images, block=128), in_float64(images)
    noise = normal((4, *denoiser.image_shape), seeds=4)
    x0 = y[:4].float().reshape(noise.shape)
    windows = denoiser.windows(sigma)
    for centre in (x0, (x0 + x0.roll(1, 0)) / 2, 3 * noise.flip(0)):
        x = centre + sigma * noise
        found = denoiser(x, sigma)
        assert found.dtype == torch.float32
        assert (found - direct(y, x, sigma, windows)).abs().max() < 1e-5


@pytest.mark.parametrize('sigma', [0.05, 0.5, 5.0])
@pytest.mark.parametrize('name', ['digits', 'coloured', 'copies'])
def test_windows_are_the_published_ones(name, sigma):
    images = SETS[name]()
    y = in_float64(images)
    for threshold in (0.02, 0.1):
        found = LocalDenoiser(images, threshold=threshold).windows(sigma)
        assert found.dtype == torch.bool and 0 < found.float().mean() < 1
        differing = (found != published(y, sigma, threshold)).sum().item()
        assert differing <= 1e-4 * found.numel()  # entries within rounding of the threshold


def test_windows_with_fewer_images_than_pixels():
    images = coloured()[:20]
    for sigma in (0.05, 1.0):
        found = LocalDenoiser(images).windows(sigma)
        assert (found == published(in_float64(images), sigma)).all()


def test_pixels_with_one_window_are_one_tile():
    "A set whose pixels come in equal fours: equal windows, equal answers"
    images = SETS['blocks']()
    denoiser = LocalDenoiser(images)
    x = images[:3] + 0.5 * normal((3, 1, 6, 6), seeds=5)
    tiles = denoiser._tiles_at(0.5)
    assert all(len(tile.pixels) % 4 == 0 and not len(tile.others) for tile in tiles)
    found = denoiser(x, 0.5)
    assert (found - found[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().max() < 1e-6


def test_threshold_zero_is_the_optimal_denoiser():
    images = load_images('mnist5k', split='train')[:300]
    whole, optimal = LocalDenoiser(images, threshold=0), OptimalDenoiser(images)
    for sigma in (0.02, 0.5, 3.0, 30.0):
        x = images.tensor()[:5] + sigma * normal((5, 1, 28, 28), seeds=6)
        assert (whole(x, sigma) - optimal(x, sigma)).abs().max() < 1e-5


def test_levels_of_a_batch_each_on_its_own():
    images = SETS['digits']()
    denoiser, sigmas = LocalDenoiser(images), torch.tensor([0.05, 2.0, 0.05, 40.0, 0.6])
    x = images.tensor()[:5] + sigmas.reshape(-1, 1, 1, 1) * normal((5, 1, 8, 8), seeds=7)
    together = denoiser(x, sigmas)
    alone = torch.cat([denoiser(x[i : i + 1], sigmas[i].item()) for i in range(5)])
    assert (together - alone).abs().max() < 1e-6
    many = LocalDenoiser(images, block=7)(x, sigmas)
    assert (together - many).abs().max() < 1e-6


@pytest.mark.parametrize(
    'name, sigma', [('coloured', 2.5), ('coloured', 8.0), ('blocks', 0.3), ('blocks', 1.0), ('copies', 1.0)]
)
def test_derivative_by_differences(name, sigma):
    images = SETS[name]()
    denoiser, y = LocalDenoiser(images), in_float64(images)
    x = (
        y[3:5].reshape(2, *denoiser.image_shape)
        + sigma * normal((2, *denoiser.image_shape), seeds=8).double()
    )
    windows, dim, step = denoiser.windows(sigma), y.shape[1], 1e-5 * sigma
    shifts = step * torch.eye(dim, dtype=torch.float64).reshape(dim, *denoiser.image_shape)
    up, down = (
        torch.stack([direct(y, one + s * shifts, sigma, windows).flatten(1) for one in x]) for s in (1, -1)
    )
    wanted = ((up - down) / (2 * step)).mT
    found = jacobian(denoiser, x, sigma)
    scale = wanted.abs().max()
    assert scale > 0.01 and (found - wanted).abs().max() < 1e-5 * scale
    v = normal(x.shape, seeds=9).double()
    pushed = torch.func.jvp(lambda z: denoiser(z, sigma), (x,), (v,))[1].flatten(1)
    assert (pushed - torch.einsum('bij,bj->bi', wanted, v.flatten(1))).abs().max() < 1e-4 * scale
    z = x.clone().requires_grad_()
    (denoiser(z, sigma) * v).sum().backward()
    assert (z.grad.flatten(1) - torch.einsum('bij,bi->bj', wanted, v.flatten(1))).abs().max() < 1e-4 * scale


def test_windows_of_a_walk_are_remembered_and_bounded(monkeypatch):
    monkeypatch.setattr(module, '_LEVELS_KEPT', 3)
    denoiser = LocalDenoiser(SETS['digits']())
    x = normal((1, 1, 8, 8), seeds=10)
    for sigma in (1.0, 2.0, 3.0, 1.0, 4.0):
        denoiser(x, sigma)
    assert list(denoiser._kept) == [3.0, 1.0, 4.0]


def test_half_and_copies_keep_the_answers():
    denoiser = LocalDenoiser(SETS['digits']())
    x = normal((2, 1, 8, 8), seeds=11)
    wanted = denoiser(x, 0.7)
    assert (copy.deepcopy(denoiser).half()(x, 0.7) == wanted).all()


def test_a_pixel_with_an_empty_window_is_its_mean():
    images = with_copies()
    denoiser = LocalDenoiser(images)
    assert not denoiser.windows(1.0)[:, :2].any()
    found = denoiser(normal((3, 1, 6, 6), seeds=12), 1.0)
    assert (found[:, 0, 0, :2] - (7 / 127.5 - 1)).abs().max() < 1e-6
