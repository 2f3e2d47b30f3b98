"""The Jacobian against closed forms, brute force and finite differences, for every kind of denoiser."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from difflow.denoisers.base import Denoiser, as_sigma
from difflow.denoisers.discrete_time import DDPMDenoiser
from difflow.denoisers.preconditioned import EDMDenoiser, VEDenoiser, VPDenoiser
from difflow.exact.gaussian import GaussianDenoiser
from difflow.exact.molrg import MoLRG
from difflow.exact.optimal import OptimalDenoiser
from difflow.jacobians.spectra import Rank, _Tangent, as_spectrum, jacobian, jacobian_spectrum, numerical_rank
from difflow.jacobians.trajectories import (RankCurve, _levels_below, edit, ranks_along, singular_directions,
                                            trajectory, trajectory_ranks)
from difflow.networks.unet import UNet
from difflow.noise import normal
from difflow.samplers.sampling import sample
from difflow.samplers.steps import euler, heun
from difflow.schedulers.scheduler import Scheduler


def network(size=4, channels=1, kind=EDMDenoiser, **options):
    "Return a small random network that depends on its input in every layer, attention included"
    torch.manual_seed(0)
    net = UNet(
        size,
        channels,
        32,
        channels,
        num_res_blocks=1,
        attention_resolutions=(size,),
        channel_mult=(1,),
        **options,
    )
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.6 / math.sqrt(p[0].numel()))
    return kind(net).eval()


def gaussian(dim, values, shape=None, seed=0):
    "Return the denoiser of a Gaussian with these eigenvalues in a random basis, and its closed Jacobian"
    q = torch.linalg.qr(normal((dim, dim), seed).double()).Q
    denoiser = GaussianDenoiser(torch.zeros(shape or (dim, 1, 1)), (q * values) @ q.T)
    return denoiser, lambda s: (q * (values / (values + s**2))) @ q.T


# Ground truth


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
    from difflow.networks.song_unet import edm_network

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


# The numerical rank


def by_the_book(s, energy):
    s = np.sort(np.asarray(s, float))[::-1]
    total = np.sqrt((s**2).sum())
    return next((r for r in range(1, len(s) + 1) if np.sqrt((s[:r] ** 2).sum()) > energy * total), 0)


@pytest.mark.parametrize('energy', [0.5, 0.9, 0.99, 0.999])
def test_rank_by_the_book(energy):
    for seed in range(20):
        s = normal((30,), seed).double().exp() ** (1 + seed % 3)
        assert int(numerical_rank(s, energy)) == by_the_book(s, energy)


def test_rank_of_the_published_curves():
    for equal, dim in ((6, 48), (12, 48), (7, 48), (14, 48)):
        assert int(numerical_rank(torch.cat([torch.ones(equal), torch.zeros(dim - equal)]))) == equal


def test_rank_of_nothing_and_of_many():
    assert numerical_rank(torch.zeros(2, 4)).rank.tolist() == [0, 0]
    rank = numerical_rank(torch.eye(3))
    assert rank.rank.tolist() == [1, 1, 1] and len(rank) == 3 and str(rank).startswith('1 of 3, ')
    with pytest.raises(ValueError, match='of 1 point, this is of 3'):
        int(rank)


SPECTRA = {
    'flat': lambda i: (i <= 20).double() + 1e-4,
    'exponential': lambda i: (-i / 8).exp(),
    'power': lambda i: i**-1.5,
    'few': lambda i: torch.where(i <= 5, 0.5**i, 0.0 * i),
}


@pytest.mark.parametrize('name', SPECTRA)
@pytest.mark.parametrize('iterations', [0, 2])
def test_products_alone_bracket_the_rank(name, iterations):
    dim, sigma = 400, 1.0
    share = SPECTRA[name](torch.arange(1, dim + 1).double())
    share = 0.99 * share / share.max()
    denoiser, exact = gaussian(dim, share / (1 - share) * sigma**2)
    values = torch.linalg.svdvals(exact(sigma))
    true, x = by_the_book(values, 0.99), normal((2, dim, 1, 1))
    found = jacobian_spectrum(denoiser, x, sigma, k=40, iterations=iterations)
    rank = numerical_rank(found)
    assert found.products < dim and bool(rank.found.all())
    assert bool(((rank.low <= true) & (true <= rank.high)).all())
    assert (
        found.energy - values.square().sum()
    ).abs().max() < 0.02 * values.square().sum() + 3 * found.error.max()
    if iterations:
        torch.testing.assert_close(found.values[0, : true // 2], values[: true // 2], rtol=2e-3, atol=0)


def test_too_small_k_says_so():
    denoiser, _ = gaussian(300, torch.cat([torch.ones(100), torch.zeros(200)]).double())
    rank = numerical_rank(jacobian_spectrum(denoiser, normal((1, 300, 1, 1)), 0.5, k=20))
    assert not rank.found[0] and int(rank.low) > 20 and int(rank.high) == 300
    assert 'k = 20 is too small' in str(rank)
    with pytest.raises(ValueError, match='k = 20 is too small'):
        int(rank)


def test_known_tail_is_no_guess():
    "Where the matrix is cheaper it is formed, and a small k still gives the right energy"
    denoiser, exact = gaussian(20, torch.arange(1, 21).double())
    found = jacobian_spectrum(denoiser, normal((1, 20, 1, 1)), 1.0, k=5)
    assert found.values.shape == (1, 5) and found.products == 20 and found.missed.item() == 0
    torch.testing.assert_close(found.energy[0], exact(1.0).square().sum(), atol=1e-4, rtol=0)
    assert not numerical_rank(found).found[0]


def test_singular_vectors_of_an_asymmetric_jacobian():
    denoiser, x = network(), normal((2, 1, 4, 4), seeds=0)
    matrix = jacobian(denoiser, x, 0.8).double()
    found = singular_directions(denoiser, x, 0.8, k=3)
    left, right = found.left.flatten(2).double(), found.right.flatten(2).double()
    torch.testing.assert_close(right @ right.mT, torch.eye(3).double().expand(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((matrix @ right.mT).mT, found.values[..., None] * left, atol=1e-4, rtol=0)
    signs = right.gather(2, right.abs().argmax(2, keepdim=True))
    assert bool((signs > 0).all())


def test_vectors_by_products_are_those_of_the_matrix():
    values = torch.cat([torch.tensor([30.0, 20.0, 10.0, 5.0]), 1e-3 * torch.ones(296)]).double()
    denoiser, exact = gaussian(300, values)
    found = singular_directions(denoiser, normal((1, 300, 1, 1)), 3.0, k=4)
    right = torch.linalg.eigh(exact(3.0)).eigenvectors[:, -4:].flip(1).T
    cosines = (found.right[0].flatten(1).double() * right).sum(1).abs()
    assert found.products < 100 and cosines.min() > 1 - 1e-6


# The walk


def test_walk_is_that_of_the_sampler():
    denoiser = network()
    states = list(heun(denoiser, 80 * normal((3, 1, 4, 4), [5, 6, 7]), Scheduler.karras(8)))
    walk = list(trajectory(denoiser, seeds=[5, 6, 7], steps=8))
    assert len(walk) == 8 and walk[0][0] == pytest.approx(80) and walk[-1][0] == pytest.approx(0.002)
    for (sigma, x), state in zip(walk[1:], states):
        assert sigma == state.sigma
        torch.testing.assert_close(x, state.x)
    end = sample(denoiser, (3, 1, 4, 4), seeds=[5, 6, 7], steps=8, progress=False)
    torch.testing.assert_close(denoiser(walk[-1][1], 0.002).detach(), end, atol=1e-4, rtol=0)


def test_chosen_levels_join_the_walk():
    denoiser = network()
    walk = dict(trajectory(denoiser, seeds=[0], steps=6, at=[3.0, 0.2]))
    assert list(walk) == [3.0, 0.2] and not any(x.is_inference() for x in walk.values())


def test_labels_are_passed_on():
    denoiser = network(num_classes=2)
    first, second = (trajectory_ranks(denoiser, 4, range(3), labels=label) for label in (0, 1))
    both = trajectory_ranks(denoiser, 4, [0, 0], labels=torch.tensor([0, 1]))
    assert (
        both.rank[:, 0].tolist() == first.rank[:, 0].tolist()
        and both.rank[:, 1].tolist() == second.rank[:, 0].tolist()
    )
    with pytest.raises(ValueError, match='labels are missing'):
        trajectory_ranks(denoiser, 4, range(3))


def test_curve_interval_and_union():
    curve = trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 6, range(8))
    assert isinstance(curve, RankCurve) and curve.rank.shape == (6, 8) and bool(curve.found.all())
    assert curve.rank[0].tolist() == [6] * 8 and curve.rank[-1].tolist() == [3] * 8
    low, high = curve.interval()
    assert bool((low <= curve.mean()).all()) and bool((curve.mean() <= high).all())
    parts = [
        trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 6, seeds) for seeds in (range(3), range(3, 8))
    ]
    assert torch.equal(parts[0].and_points(parts[1]).rank, curve.rank)
    with pytest.raises(ValueError, match='share dimension and levels'):
        curve.and_points(trajectory_ranks(MoLRG(2, 12, 3, seed=0).denoiser, 5, range(2)))


def test_callback_sees_every_level():
    seen = []
    trajectory_ranks(MoLRG(2, 12, 2, seed=0).denoiser, 5, range(2), callback=lambda s, r: seen.append((s, r)))
    assert [s for s, _ in seen] == Scheduler.karras(5).walk()[:-1] and all(
        isinstance(r, Rank) for _, r in seen
    )


# Edits


def test_edit_of_a_gaussian_is_linear():
    denoiser, _ = gaussian(16, torch.logspace(-1, 1, 16).double(), (1, 4, 4))
    x, sigma = 2 * normal((1, 1, 4, 4), seeds=3), 2.0
    found = singular_directions(denoiser, x, sigma, k=2)
    images = edit(denoiser, x, sigma, found.right[0, 0], [-1, 0, 1, 2], sampler=euler)
    step = images[2] - images[1]
    torch.testing.assert_close(images[3] - images[2], step, atol=1e-4, rtol=0)
    cosine = (step * found.right[0, 0]).sum() / step.norm()
    assert cosine > 0.999 and not images.is_inference()


def test_levels_below():
    denoiser = network()
    assert _levels_below(denoiser, 5.0, 1) == [5.0, 0.0] and _levels_below(denoiser, 0.001, 9) == [0.001, 0.0]
    levels = _levels_below(denoiser, 5.0, 9)
    assert len(levels) == 10 and levels[0] == pytest.approx(5) and levels[-1] == 0


# What is refused


class Dice(Denoiser):
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
    from difflow.networks.song_unet import edm_network

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
    from difflow.networks.diffusers_unet import DiffusersUNet

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


class Counting(Denoiser):
    image_shape, calls = (1, 4, 4), 0

    def denoise(self, x, sigma, labels):
        self.calls += 1
        return x / (1 + sigma.to(x.dtype) ** 2)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(k=17), 'k must be an integer in 1..16, got 17'),
        (dict(chunk=0), 'chunk must be'),
        (dict(probes=1), 'probes must be'),
        (dict(iterations=-1), 'iterations must be'),
        (dict(energy=1.0), 'energy must be'),
        (dict(labels=1), 'has no classes'),
    ],
)
def test_ranks_refuse_before_the_walk(options, message):
    denoiser = Counting()
    late = dict(at=[0.01])  # the walk is long before it comes here
    with pytest.raises(ValueError, match=message):
        trajectory_ranks(denoiser, 4, range(2), **late | options)
    with pytest.raises(TypeError, match='itrations'):
        trajectory_ranks(denoiser, 4, range(2), itrations=1, **late)
    with pytest.raises(ValueError, match=message):
        ranks_along(denoiser, seeds=range(2), walk=late, **options)  # no item asked for
    assert denoiser.calls == 0


def test_values_on_another_device_stay_there():
    spectrum = as_spectrum(torch.ones(3, 5, device='meta'))
    assert {t.device.type for t in (spectrum.values, spectrum.tail, spectrum.missed, spectrum.error)} == {
        'meta'
    }


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: jacobian(network(dropout=0.2).train(), X, 1.0),
            'drops out at random .p=0.2.: call denoiser.eval',
        ),
        (lambda: jacobian(Dice(), X + 1, 1.0), 'must be deterministic'),
        (lambda: jacobian(Mute(), X, 1.0), 'passes no gradient'),
        (lambda: jacobian(VEDenoiser(network().net), X, 0.001), 'sigma must be in 0.02..100, got 0.001'),
        (
            lambda: jacobian(VEDenoiser(network().net), X, torch.tensor([1.0, 101.0])),
            'sigma must be in 0.02..100, got 101',
        ),
        (lambda: jacobian(network(), X, -1.0), 'sigma must be in .0, inf.'),
        (lambda: jacobian(network(), X[:0], 1.0), 'at least one image, got 0'),
        (lambda: jacobian(network(), X[:, :, :3], 1.0), 'x must have the shape'),
        (lambda: jacobian(network(), X, 1.0, chunk=0), 'chunk must be an integer >= 1, got 0'),
        (lambda: jacobian_spectrum(network(), X, 1.0, k=17), 'k must be an integer in 1..16, got 17'),
        (lambda: jacobian_spectrum(network(), X, 1.0, k=0), 'k must be an integer in 1..16, got 0'),
        (lambda: jacobian_spectrum(network(), X, 1.0, k=2, probes=1), 'probes must be'),
        (lambda: jacobian_spectrum(network(), X, 1.0, energy=1.0), 'energy must be in .0, 1., got 1.0'),
        (lambda: numerical_rank(torch.ones(3), 0.0), 'energy must be in .0, 1., got 0.0'),
        (lambda: trajectory(network(), steps=0), 'steps must be an integer >= 1, got 0'),
        (lambda: trajectory(network(), at=[]), 'at must name at least one'),
        (lambda: trajectory(network(), at=[math.nan]), 'sigma must be in .0, inf., got nan'),
        (lambda: trajectory(VEDenoiser(network().net), at=[200.0]), 'sigma must be in 0.02..100, got 200'),
        (lambda: trajectory_ranks(network(), energy=2.0), 'energy must be in .0, 1., got 2.0'),
        (lambda: edit(network(), X, 1.0, X[0], [1.0]), r'x must be \(1, C, H, W\)'),
        (lambda: edit(network(), X[:1], 1.0, X[0], []), 'strengths must be finite'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
