"""Sets that stay on disk, and an index that leaves out what cannot weigh anything: the same answers."""

import copy
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from difflow import (
    EDMDenoiser,
    OptimalDenoiser,
    PatchDenoiser,
    UNet,
    WienerDenoiser,
    load_images,
    normal,
    sample,
    train,
)
from difflow.data.digests import images_digest
from difflow.exact.weighted_sums import _Images, _Index, _moments, _project
from difflow.features import sscd_features
from difflow.runs.identity import model_hash


def clusters(count, shape, seed=0, spread=0.05):
    "Return images (count, *shape) in [-1, 1] around 12 centres, as floats"
    at = torch.arange(count) % 12
    centres = 0.5 * normal((12, *shape), seeds=seed).clamp(-1.5, 1.5)
    return (centres[at] + spread * normal((count, *shape), seeds=seed + 1)).clamp(-1, 1)


def as_bytes(images):
    return ((images + 1) * 127.5).round().byte()


@pytest.fixture(scope='module')
def colour():
    return as_bytes(clusters(1100, (3, 6, 5)))


@pytest.fixture(scope='module', params=['first', 'last'])
def streamed(colour, tmp_path_factory, request):
    path = tmp_path_factory.mktemp('array') / f'{request.param}.npy'
    np.save(path, (colour if request.param == 'first' else colour.permute(0, 2, 3, 1)).numpy())
    found = load_images(path)
    assert found.streamed and not found.decoded
    return found


LABELS = torch.arange(1100) % 7


def fields_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize('sigma', [0.01, 0.3, 2.0, 30.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_optimal_denoiser_from_disk_is_that_in_memory_to_the_bit(colour, streamed, sigma, dtype):
    ours = OptimalDenoiser(colour, labels=LABELS, dtype=dtype)
    disk = OptimalDenoiser(streamed, labels=LABELS, dtype=dtype)
    x = clusters(9, (3, 6, 5), 5) + sigma * normal((9, 3, 6, 5), seeds=2)
    for labels in (None, LABELS[:9]):
        assert fields_equal(disk.examine(x, sigma, labels), ours.examine(x, sigma, labels))
        assert torch.equal(disk.weights(x, sigma, labels), ours.weights(x, sigma, labels))
        assert torch.equal(
            disk.jacobian_product(x, sigma, x, labels), ours.jacobian_product(x, sigma, x, labels)
        )
    assert streamed.streamed  # nothing has been loaded


def test_regimes_and_moments_from_disk(colour, streamed):
    ours, disk = OptimalDenoiser(colour, labels=LABELS), OptimalDenoiser(streamed, labels=LABELS)
    assert disk.speciation() == ours.speciation() and disk.speciation(between=True) == ours.speciation(True)
    assert disk.collapse(n=16) == ours.collapse(n=16)
    assert (disk.reach, disk.spread) == (ours.reach, ours.spread)


@pytest.mark.parametrize(
    'options', [dict(patch=3), dict(patch=3, equivariant=True), dict(patch=5, share=0.4)]
)
def test_windows_from_disk(colour, streamed, options):
    x = clusters(4, (3, 6, 5), 5) + 0.4 * normal((4, 3, 6, 5), seeds=2)
    ours, disk = PatchDenoiser(colour[:300], **options), PatchDenoiser(streamed[:300], **options)
    assert torch.equal(disk(x, 0.4), ours(x, 0.4))
    assert torch.equal(disk.jacobian_product(x, 0.4, x), ours.jacobian_product(x, 0.4, x))


@pytest.mark.parametrize('count', [1100, 40])  # more images than pixels, and fewer
def test_the_linear_denoiser_from_disk(colour, streamed, count):
    x = clusters(4, (3, 6, 5), 5) + 0.4 * normal((4, 3, 6, 5), seeds=2)
    assert torch.equal(WienerDenoiser(streamed[:count])(x, 0.4), WienerDenoiser(colour[:count])(x, 0.4))


def test_a_part_of_a_set_on_disk_stays_there(colour, streamed):
    part = streamed[torch.tensor([3, 900, 4])]
    assert part.streamed and torch.equal(part.bytes(slice(None)), colour[[3, 900, 4]])
    assert torch.equal(
        OptimalDenoiser(streamed[::3])(colour[:2] / 127.5 - 1, 0.5),
        OptimalDenoiser(colour[::3])(colour[:2] / 127.5 - 1, 0.5),
    )
    again = pickle.loads(pickle.dumps(streamed))
    assert torch.equal(again.bytes(slice(5, 9)), colour[5:9])


def test_what_the_set_is_belongs_to_what_the_denoiser_is(colour, streamed, tmp_path):
    assert images_digest(streamed) == images_digest(colour)
    other = colour.clone()
    other[[7, 8]] = other[[8, 7]]
    np.save(tmp_path / 'other.npy', other.numpy())
    hashes = {model_hash(OptimalDenoiser(s)) for s in (streamed, load_images(tmp_path / 'other.npy'))}
    hashes |= {model_hash(OptimalDenoiser(streamed, index=k)) for k in (4, 8)}
    assert len(hashes) == 4 and model_hash(OptimalDenoiser(streamed)) in hashes
    patches = {model_hash(PatchDenoiser(s[:50], 3)) for s in (streamed, load_images(tmp_path / 'other.npy'))}
    assert len(patches) == 2


def test_training_and_sampling_on_a_set_on_disk(tmp_path):
    images = as_bytes(clusters(40, (3, 8, 8)))
    np.save(tmp_path / 'images.npy', images.numpy())
    streamed = load_images(tmp_path / 'images.npy')
    torch.manual_seed(0)
    denoiser = EDMDenoiser(UNet(8, 3, 32, 3, 1, (), channel_mult=(1,)))
    brief = dict(steps=3, batch_size=8, progress=False)
    losses = [train(denoiser, held, **brief).losses for held in (streamed, images)]
    assert streamed.streamed and (losses[0] == losses[1]).all()
    few = dict(steps=4, seeds=[0, 1], progress=False)
    made = [sample(OptimalDenoiser(held), (2, 3, 8, 8), **few) for held in (streamed, images)]
    assert torch.equal(*made)


def test_descriptors_of_a_set_on_disk(tmp_path):
    digits = load_images('mnist5k')[:90]
    np.save(tmp_path / 'digits.npy', digits.images.numpy())
    streamed = load_images(tmp_path / 'digits.npy')
    found = [sscd_features(held, batch_size=32) for held in (streamed, digits)]
    assert streamed.streamed and torch.equal(*found)


def test_a_file_that_changes_says_so(tmp_path):
    np.save(tmp_path / 'a.npy', np.zeros((9, 4, 4), np.uint8))
    images = load_images(tmp_path / 'a.npy')
    optimal = OptimalDenoiser(images)
    with open(tmp_path / 'a.npy', 'r+b') as file:
        file.truncate(200)
    with pytest.raises(ValueError, match=r'a\.npy was changed since it was opened: load it again'):
        optimal(torch.zeros(1, 1, 4, 4), 1.0)
    with pytest.raises(ValueError, match=r'a\.npy: unreadable npy'):
        load_images(tmp_path / 'a.npy')


def test_a_file_that_is_replaced_stays_what_it_was(tmp_path):
    np.save(tmp_path / 'a.npy', np.full((9, 4, 4), 7, np.uint8))
    images = load_images(tmp_path / 'a.npy')
    np.save(tmp_path / 'b.npy', np.full((9, 4, 4), 8, np.uint8))
    (tmp_path / 'b.npy').replace(tmp_path / 'a.npy')
    assert (images.bytes(slice(None)) == 7).all()
    assert (load_images(tmp_path / 'a.npy').bytes(slice(None)) == 8).all()


@pytest.mark.parametrize(
    'array, words',
    [
        (np.zeros((4, 5, 6), np.float32), 'wanted uint8'),
        (np.zeros((4, 2, 5, 6), np.uint8), 'wanted uint8'),
        (np.zeros((0, 5, 6), np.uint8), 'wanted uint8'),
        (np.zeros((4, 5), np.uint8), 'wanted uint8'),
        (np.zeros((), np.uint8), 'rows of numbers'),
        (np.asfortranarray(np.zeros((4, 5, 6), np.uint8)), 'rows of numbers'),
        (np.array([None, 1]), 'unreadable npy'),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, words):
    np.save(tmp_path / 'x.npy', array)
    with pytest.raises(ValueError, match=words):
        load_images(tmp_path / 'x.npy')


def index_of(images, components):
    rows = images.flatten(1)
    moments = _moments(rows)
    held = _Images(rows, moments.centre, moments.halves, moments.reach, None, 128)
    return _Index(held, *_project(held, components, torch.float64)), rows.double() - moments.centre


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 20, 75]),
    st.sampled_from([1e-4, 0.03, 0.5, 3.0, 100.0]),
    st.sampled_from(['uint8', 'float', 'copies', 'far']),
)
def test_no_score_exceeds_its_bound(seed, components, sigma, kind):
    images = clusters(90, (3, 5, 5), seed, spread=0.3)
    if kind == 'uint8':
        images = as_bytes(images)
    if kind == 'copies':
        images = images[:1] + 1e-4 * images
    if kind == 'far':
        images = 1e3 + images
    index, rows = index_of(images, components)
    unit = 127.5 if kind == 'uint8' else 1.0
    z = rows[:8] + unit * sigma * normal((8, 75), seeds=seed + 9).double()
    scores = z @ rows.T - index.images.halves
    assert (index._bounds(z, None) >= scores).all()
    chosen = index._pick(z, torch.full((8, 1), (unit * sigma) ** 2).double(), 5, None)
    weights = (scores / (unit * sigma) ** 2).softmax(1)
    assert ((weights * ~chosen).sum(1) <= 1e-7 * weights.amax(1)).all()
    nearest = scores.topk(5)
    assert chosen.gather(1, nearest.indices)[nearest.values > nearest.values[:, -1:] + 1e-9].all()


def direct(images, x, sigma):
    "The formula as it stands, in float64"
    y, z = images.double().flatten(1), x.double().flatten(1)
    exponents = -(torch.cdist(z, y, compute_mode='donot_use_mm_for_euclid_dist') ** 2) / (2 * sigma**2)
    return (exponents.softmax(1) @ y).reshape(x.shape), exponents


@pytest.mark.parametrize('count', [200, 10_000])  # the larger one is tried on a sample first
@pytest.mark.parametrize('components', [2, 16, 48])
@pytest.mark.parametrize('sigma', [1e-3, 0.05, 0.3, 1.0, 10.0])
def test_with_an_index_the_answer_is_that_of_the_formula(count, components, sigma):
    images = clusters(count, (1, 8, 8))
    optimal = OptimalDenoiser(images, index=components)
    x = clusters(20, (1, 8, 8), 7, 0.1) * 0.5 + images[:20] * 0.5 + sigma * normal((20, 1, 8, 8), seeds=3)
    mean, exponents = direct(images, x, sigma)
    assert (optimal(x, sigma) - mean).abs().max() < 3e-6
    found = optimal.examine(x, sigma, k=4)
    density = exponents.logsumexp(1) - math.log(count) - 32 * math.log(2 * math.pi * sigma**2)
    assert ((found.log_density - density).abs() / density.abs().clamp(min=1)).max() < 1e-5
    assert torch.equal(found.indices, exponents.topk(4).indices)
    weights, plain = exponents.softmax(1).topk(4).values, OptimalDenoiser(images).examine(x, sigma, k=4)
    rounding = (plain.weights - weights).abs().max() + 1e-7  # of the products in float32
    assert (found.weights - weights).abs().max() <= 2 * rounding < 1e-5
    sigmas = torch.full((20,), sigma)
    sigmas[::2] = 5.0  # rows that are pruned beside rows that are not
    every = optimal(x, sigmas)
    assert (every[1::2] - mean[1::2]).abs().max() < 3e-6
    assert (every[::2] - direct(images, x[::2], 5.0)[0]).abs().max() < 3e-6


def test_an_index_visits_little_at_little_noise():
    images = clusters(10_000, (1, 8, 8), spread=0.2)
    optimal, x = OptimalDenoiser(images, index=24), clusters(16, (1, 8, 8), 0, 0.2)

    def visited(sigma):
        z, variance = (
            optimal._inside(x + sigma * normal(x.shape, seeds=3)),
            optimal._variance(torch.tensor(sigma), 16),
        )
        return sum(len(rows) * held.n for rows, held in optimal._visited(None, z, variance, 1)) / 160_000

    assert visited(0.01) < 0.1 < visited(3.0) == 1.0


def test_an_index_with_classes_derivatives_guidance_and_twins():
    images = clusters(600, (1, 6, 6))
    images[300:] = images[:300]  # every image twice
    labels = torch.arange(600) % 5
    plain, indexed = (OptimalDenoiser(images, labels=labels, index=k) for k in (None, 12))
    x = images[:10] + 0.1 * normal((10, 1, 6, 6), seeds=3)
    for which in (None, labels[:10]):
        torch.testing.assert_close(indexed(x, 0.1, which), plain(x, 0.1, which), atol=2e-6, rtol=0)
        torch.testing.assert_close(
            indexed.weights(x, 0.1, which), plain.weights(x, 0.1, which), atol=2e-6, rtol=0
        )
        products = [d.jacobian_product(x, 0.1, x, which) for d in (indexed, plain)]
        torch.testing.assert_close(*products, atol=2e-5, rtol=1e-5)
        found = indexed.examine(x, 0.1, which, k=2)
        assert torch.equal(
            found.indices.sort().values, plain.examine(x, 0.1, which, k=2).indices.sort().values
        )
        torch.testing.assert_close(found.log_density, plain.log_density(x, 0.1, which), atol=1e-5, rtol=0)
    sizes = [d.examine(x, 0.1).effective_size for d in (indexed, plain)]
    torch.testing.assert_close(*sizes, atol=1e-5, rtol=0)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(indexed(x, 0.1).square().sum(), x)
    (again,) = torch.autograd.grad(plain(x, 0.1).square().sum(), x)
    torch.testing.assert_close(gradient, again, atol=2e-5, rtol=1e-5)
    assert torch.equal(copy.deepcopy(indexed)(x, 0.1), indexed(x, 0.1))
    assert torch.equal(copy.deepcopy(indexed).half().to('cpu')(x, 0.1), indexed(x, 0.1))


@pytest.mark.parametrize('index', [0, 37, 2.5, True, 'all'])
def test_bad_numbers_of_components(index):
    with pytest.raises(ValueError, match=r'index must be an integer in 1\.\.36'):
        OptimalDenoiser(clusters(20, (1, 6, 6)), index=index)


MEMORY = """if True:
    import sys
    import torch
    from difflow import OptimalDenoiser, load_images, normal
    torch.set_num_threads(1)
    def peak():
        lines = open('/proc/self/status')
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024
    OptimalDenoiser(load_images('mnist5k')[:600])(normal((2, 1, 28, 28), seeds=0), 1.) # loads libraries
    images, before = load_images(sys.argv[1]), peak()
    x = images.tensor(slice(0, 4)) + normal((4, 3, 32, 32), seeds=0)
    OptimalDenoiser(images)(x, 1.)
    print(peak() - before)"""


@pytest.mark.skipif(sys.platform != 'linux', reason='what is in memory is read from /proc')
def test_a_pass_over_a_set_on_disk_takes_no_more_memory_than_a_part_of_it(tmp_path, python):
    part = np.random.default_rng(0).integers(0, 256, (4096, 3, 32, 32), dtype=np.uint8)
    with open(tmp_path / 'large.npy', 'wb') as file:
        shape = (24 * len(part), 3, 32, 32)
        np.lib.format.write_array_header_2_0(file, dict(descr='|u1', fortran_order=False, shape=shape))
        for _ in range(24):
            file.write(part.data)
    assert (tmp_path / 'large.npy').stat().st_size > 288 * 2**20
    assert float(python(MEMORY, str(tmp_path / 'large.npy'), env={'OMP_NUM_THREADS': '1'})) < 200
