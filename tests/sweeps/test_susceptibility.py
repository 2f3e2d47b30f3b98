"""Susceptibility against sums over the matrix, and against covariances that samples have exactly."""

import numpy as np
import pytest
import torch

import difflow as df
from difflow import RandomHierarchy, normal, susceptibility, sweep
from difflow.sweeps import LayerChange


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_covariance(matrix, n=None, seed=0):
    "Return samples whose covariance, divided by n - 1, is `matrix` to rounding."
    sites = len(matrix)
    n = n or 3 * sites + 2
    x = random(n, sites, seed=seed)
    q, _ = np.linalg.qr(x - x.mean(0))
    return q @ np.linalg.cholesky(matrix).T * np.sqrt(n - 1)


def direct(x):
    matrix = np.cov(np.asarray(x, float).T)
    return matrix.sum() / matrix.trace()


def factorial(sites):
    return np.stack(np.meshgrid(*[[0, 1]] * sites), -1).reshape(-1, sites)


@pytest.mark.parametrize('sites', [2, 3, 6])
@pytest.mark.parametrize('k', [1, 2, 5])
def test_independent_blocks_give_their_size(sites, k):
    assert float(susceptibility(factorial(sites).repeat(k, 1))) == pytest.approx(k, rel=1e-12)


@pytest.mark.parametrize(
    'as_given',
    [
        lambda x: x,
        lambda x: x.astype(np.float32),
        lambda x: torch.tensor(x),
        lambda x: torch.tensor(x).bfloat16(),
        lambda x: torch.tensor(x > 0),
        lambda x: (x * 50).astype(np.int8),
        lambda x: x.tolist(),
        lambda x: torch.tensor(x, requires_grad=True),
    ],
)
def test_the_definition_for_every_type(as_given):
    given = as_given(random(40, 7) + random(40, 1, seed=1))
    values = given.detach().double().numpy() if isinstance(given, torch.Tensor) else np.asarray(given, float)
    assert float(susceptibility(given)) == pytest.approx(direct(values), rel=1e-9)


def test_levels_one_by_one():
    x = random(3, 30, 5) + random(3, 30, 1, seed=1)
    whole = susceptibility(x, levels=[0.1, 0.2, 0.4], positions=np.arange(5))
    for s in range(3):
        one = susceptibility(x[s], positions=np.arange(5))
        assert whole.chi[s] == one.chi and (whole.resamples[:, s] == one.resamples).all()
        assert whole.length[s] == one.length and (whole.correlation[s] == one.correlation).all()
        assert (whole.interval[:, s] == one.interval).all()
    assert one.interval.shape == (2,) and one.interval[0] < one.chi < one.interval[1]


def test_scale_offset_and_order_do_not_matter():
    x = random(50, 8) + random(50, 1, seed=1)
    chi = float(susceptibility(x))
    for other in (1e-6 * x, -3 * x, x + 1e6, x[::-1], x[:, ::-1], x + np.arange(8)):
        assert float(susceptibility(other)) == pytest.approx(chi, rel=1e-8)


def test_no_change_is_not_a_number_and_is_counted():
    x = np.stack([np.full((6, 4), 0.1, np.float32), random(6, 4).astype(np.float32)])
    x[1, :, 2] = 0.3
    found = susceptibility(x, positions=np.arange(4))
    assert np.isnan(found.chi[0]) and np.isnan(found.interval[:, 0]).all() and np.isnan(found.length[0])
    assert found.constant.tolist() == [4, 1]
    assert found.chi[1] == pytest.approx(direct(x[1][:, [0, 1, 3]]), rel=1e-12)
    assert 'no change at 1 levels' in repr(found) and 'chi is NaN' in repr(susceptibility(x[0]))
    assert found.peak.level == 1


def within(x, starts):
    "The covariance of the rows of one start, averaged over starts, as a matrix"
    return np.mean([np.cov(x[starts == g].T) for g in np.unique(starts)], 0)


@pytest.mark.parametrize('groups', [1, 3, 25])
def test_starts_average_the_covariance_within(groups):
    starts = np.random.default_rng(0).permutation(np.arange(4 * groups) % groups)
    x = random(4 * groups, 6) + 5 * random(groups, 1, seed=1)[starts] + random(4 * groups, 1, seed=2)
    matrix = within(x, starts) if groups > 1 else np.cov(x.T)
    found = susceptibility(x, starts=torch.tensor(starts), positions=np.arange(6))
    assert float(found) == pytest.approx(matrix.sum() / matrix.trace(), rel=1e-10)
    expected = [np.mean(np.diag(matrix, d)) / matrix.trace() * 6 for d in range(6)]
    assert found.correlation == pytest.approx(expected, rel=1e-9)
    assert found.interval[0] < found.chi < found.interval[1]


def test_what_differs_between_starts_is_no_correlation():
    starts = np.arange(3000) % 30
    x = random(3000, 5) + 4 * random(30, 1, seed=1)[starts]
    assert float(susceptibility(x)) > 4
    low, high = susceptibility(x, starts=starts).interval
    assert low < 1 < high


@pytest.mark.parametrize('xi', [0.3, 1.0, 2.5, 7.0])
def test_exponential_correlations_have_their_length(xi):
    place = np.arange(40)
    matrix = np.exp(-abs(place[:, None] - place) / xi)
    found = susceptibility(with_covariance(matrix), positions=place)
    assert float(found.length) == pytest.approx(xi, rel=1e-6)
    assert found.correlation == pytest.approx(np.exp(-place / xi), abs=1e-9)
    assert float(found) == pytest.approx(matrix.sum() / 40, rel=1e-9)


def test_the_length_has_the_unit_of_the_positions():
    place = np.arange(30)
    x = with_covariance(np.exp(-abs(place[:, None] - place) / 2.0))
    assert float(susceptibility(x, positions=0.1 * place + 7).length) == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize('positions', [np.arange(300), random(300, 2), np.indices((20, 15)).reshape(2, -1).T])
@pytest.mark.parametrize('bins', [None, 7])
def test_correlation_by_distance_against_the_matrix(positions, bins):
    x = random(50, 300) + random(50, 1, seed=1)
    if bins is None and positions.dtype == float:
        positions = positions[:, :1].round(1)
    found = susceptibility(x, positions=positions, bins=bins)
    places = positions.reshape(300, -1).astype(float)
    apart, matrix = np.linalg.norm(places[:, None] - places, axis=2), np.cov(x.T)
    unit = apart.max() / bins if bins else None
    number = np.ceil(apart / unit - 1e-9).astype(int) if bins else apart.round(9)
    values = range(bins + 1) if bins else np.unique(number)
    for i, value in enumerate(values):
        here = number == value
        assert found.pairs[i] == here.sum()
        if here.any():
            assert found.distances[i] == pytest.approx(apart[here].mean(), abs=1e-9)
            expected = matrix[here].mean() / matrix.trace() * 300
            assert found.correlation[i] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    there = found.pairs > 0
    assert float(found) == pytest.approx((found.pairs * found.correlation)[there].sum() / 300, rel=1e-9)


def test_leaves_by_their_common_ancestor():
    tree = RandomHierarchy(4, 2, 3, 3)
    x = random(500, 27) + random(500, 9, seed=1).repeat(3, 1) + random(500, 3, seed=2).repeat(9, 1)
    found = susceptibility(x, positions=tree)
    assert found.distances.tolist() == [0, 1, 2, 3] and found.pairs.tolist() == [27, 54, 162, 486]
    matrix = np.cov(x.T)
    leaf = np.arange(27)
    for r in (1, 2, 3):
        here = (leaf[:, None] // 3**r == leaf // 3**r) & (
            leaf[:, None] // 3 ** (r - 1) != leaf // 3 ** (r - 1)
        )
        assert found.correlation[r] == pytest.approx(matrix[here].mean() / matrix.trace() * 27, rel=1e-9)
    ancestors = leaf[:, None] // 3 ** np.arange(4)
    by_hand = susceptibility(x, positions=ancestors, metric='tree')
    assert (by_hand.correlation == found.correlation).all()


def test_lengths_at_their_ends():
    block = factorial(3).repeat(4, 1)
    place = np.arange(12)
    assert susceptibility(factorial(4), positions=np.arange(4)).length == 0
    assert susceptibility(factorial(1).repeat(5, 1), positions=np.arange(5)).length == np.inf
    assert 1 < susceptibility(block, positions=place).length < 4
    assert susceptibility(block).length is None and susceptibility(block).correlation is None
    assert np.isnan(susceptibility(factorial(3), positions=np.zeros(3)).length)


def test_many_sites_need_no_matrix():
    x = random(12, 200_000)  # a matrix of sites would have 320 GB
    found = susceptibility(x, bootstrap=20)
    assert found.chi == pytest.approx(x.sum(1).var() / x.var(0).sum(), rel=1e-9)


def gaussian_sweep():
    model = df.GaussianDenoiser(torch.zeros(2, 4, 6), 0.25)
    return sweep(model, normal((5, 2, 4, 6)).clamp(-1, 1), [0, 3, 6], steps=6)


def test_a_sweep_is_its_squared_pixels():
    walk = gaussian_sweep()
    found = susceptibility(walk, positions='pixels')
    squares = (walk.images.double() - walk.x0).square().sum(2)
    assert np.isnan(found.chi[0]) and found.constant[0] == 24 and found.levels.tolist() == [0, 3, 6]
    assert found.axis == 'step_reverse' and found.sites == 24 and found.samples == 5
    for s in (1, 2):
        assert found.chi[s] == pytest.approx(direct(squares[s].flatten(1)), rel=1e-9)
    assert found.distances[-1] == pytest.approx(np.hypot(3, 5), abs=1e-8)
    coarse = susceptibility(walk, patch=2, positions='pixels')
    means = squares[2].reshape(5, 2, 2, 3, 2).mean((2, 4)).flatten(1)
    assert coarse.sites == 6 and coarse.chi[2] == pytest.approx(direct(means), rel=1e-9)
    assert coarse.distances[1] == 2  # in pixels


def test_a_sweep_of_strings_is_counted_in_leaves():
    tree = RandomHierarchy(4, 2, 2, 2)
    strings, _ = tree.sample(40)
    walk = sweep(tree.denoiser, tree.encode(strings), [20, 30], steps=40)
    found = susceptibility(walk, positions=tree)
    changed = torch.stack([tree.decode(images) != strings for images in walk.images])
    expected = susceptibility(changed)
    assert found.chi == pytest.approx(expected.chi, rel=0.05) and found.distances.tolist() == [0, 1, 2]


def test_the_sites_of_a_layer_change_are_layers():
    cosine = 1 - np.abs(random(2, 3, 10)).astype(np.float32)
    logits = random(2, 10, 4)
    change = LayerChange(
        list('abc'),
        [5, 9],
        [f'{i}' for i in range(10)],
        *[cosine] * 4,
        np.arange(10),
        {'digit': logits[0]},
        {'digit': logits},
    )
    found = susceptibility(change)
    assert found.levels.tolist() == [5, 9] and found.sites == 3
    assert found.chi == pytest.approx([direct(1 - cosine[s].T) for s in range(2)], rel=1e-6)


def test_the_peak_and_its_interval():
    levels = np.array([3.0, 0.0, 1.0, 2.0, 4.0])
    shared = np.array([0.5, 0.1, 0.5, 1.0, 0.1])
    x = random(5, 400, 6, seed=3) + shared[:, None, None] * random(1, 400, 1, seed=4)
    peak = susceptibility(x, levels=levels).peak
    assert 1 < peak.level_low <= peak.level <= peak.level_high < 3 and peak.chi_low < peak.chi < peak.chi_high
    ascending = susceptibility(x[levels.argsort()], levels=levels[levels.argsort()])
    assert ascending.peak == peak
    with pytest.raises(ValueError, match='a peak needs levels'):
        _ = susceptibility(x[0]).peak


def test_intervals_hold_the_truth():
    inside = 0
    for seed in range(100):
        low, high = susceptibility(random(80, 5, seed=seed).repeat(3, 1), seed=seed).interval
        inside += low < 3 < high
    assert inside >= 85  # fewer than 85 of 100 once in 10,000 at the nominal 95


def test_the_same_seed_gives_the_same_interval():
    x = random(30, 4)
    a, b, c = (susceptibility(x, seed=seed).resamples for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


@pytest.mark.parametrize('shape', [(20, 4), (3, 20, 4)])
@pytest.mark.parametrize('positions', [None, np.arange(4)])
def test_it_is_kept_in_a_file(tmp_path, shape, positions):
    found = susceptibility(random(*shape), positions=positions, bootstrap=20)
    again = type(found).load(found.save(tmp_path / 'chi.npz'))
    for name, value in found._asdict().items():
        assert (np.asarray(getattr(again, name)) == np.asarray(value)).all(), name
    assert len(again.rows()) == (3 if len(shape) == 3 else 1) and repr(again) == repr(found)


BAD = {
    'changes must hold at least 2 samples': dict(changes=np.zeros((1, 4))),
    'changes must hold at least 2 samples of at least 1 site, got (4, 0)': dict(changes=np.zeros((4, 0))),
    'changes must be finite': dict(changes=np.full((3, 2), np.nan)),
    'changes must be numbers (N, sites)': dict(changes=np.zeros(4)),
    'changes must be numbers': dict(changes=np.zeros((4, 2), complex)),
    'positions must be finite numbers (4,)': dict(positions=np.arange(3)),
    'positions must be finite': dict(positions=[0, 1, 2, np.nan]),
    'positions must be one of pixels': dict(positions='lattice'),
    "positions='pixels' is for a Sweep": dict(positions='pixels'),
    'RandomHierarchy of as many leaves': dict(positions=RandomHierarchy(3, 2, 2, 3)),
    "metric of these positions is tree, got 'euclidean'": dict(
        positions=RandomHierarchy(3, 2, 2, 2), metric='euclidean'
    ),
    'metric must be one of euclidean, tree': dict(metric='manhattan'),
    'starts must be 6 integers': dict(starts=[0, 1]),
    'starts must be 6 integers, one': dict(starts='x'),
    'starts must name each start at least twice, got 2 once': dict(starts=[0, 0, 1, 1, 1, 2]),
    'bins must be an integer >= 1, got 0': dict(bins=0),
    'patch must be an integer >= 1, got 0': dict(patch=0),
    'changes with patch > 1 must be Sweep': dict(patch=2),
    'levels are for changes (S, N, sites)': dict(levels=[1.0]),
    'levels must be 2 finite numbers': dict(changes=random(2, 6, 4), levels=[1.0]),
    'bootstrap must be an integer >= 20, got 19': dict(bootstrap=19),
    'seed must be an integer in 0..2**64-1, got -1': dict(seed=-1),
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_named(message):
    with pytest.raises(ValueError) as error:
        susceptibility(**dict(changes=random(6, 4)) | BAD[message])
    assert message in str(error.value)


def test_a_patch_divides_the_image():
    with pytest.raises(ValueError, match='patch must divide the image of 4x6, got 3'):
        susceptibility(gaussian_sweep(), patch=3)
    with pytest.raises(ValueError, match='chi has 3'):
        float(susceptibility(gaussian_sweep()))
