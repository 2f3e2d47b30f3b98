"""The analytic denoisers beside the obvious way and, where it can be imported, Analytic Diffusion Studio.

Run with `pytest tests/benchmarks/bench_analytic.py -s`. For the Studio, put its `src` on the path and what it
imports (diffusers, faiss-cpu, omegaconf), and name the folder of a clone: `STUDIO=... pytest ...`."""

import os
import sys
from time import process_time
from types import SimpleNamespace

import pytest
import torch

from difflow import LocalDenoiser, OptimalDenoiser, SmoothedDenoiser, WienerDenoiser, load_images, normal

BATCH = 8


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def images():
    return load_images('mnist5k', split='train')


@pytest.fixture(scope='module')
def studio():
    "Their package, from the folder of a clone"
    if 'STUDIO' not in os.environ:
        pytest.skip('STUDIO is not set')
    sys.path.insert(0, os.path.join(os.environ['STUDIO'], 'src'))
    models = pytest.importorskip('local_diffusion.models')
    pytest.importorskip('faiss').omp_set_num_threads(1)
    return models


def in_turns(first, second, times=3):
    "CPU seconds of two ways, the best of some, one after the other in turns, and what they return"
    taken, found = [[], []], [None, None]
    for _ in range(times):
        for i, work in enumerate((first, second)):
            start = process_time()
            found[i] = work()
            taken[i].append(process_time() - start)
    return min(taken[0]), min(taken[1]), *found


def theirs(studio, name, pixels, folder, batch, **params):
    "One of their denoisers, fitted to these images"
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pixels), batch_size=batch)
    bundle = SimpleNamespace(
        name='set', resolution=pixels.shape[2], in_channels=pixels.shape[1], dataloader=loader
    )
    params |= dict(wiener_path=folder / 'wiener', index_path=folder / 'index')
    model = studio.create_model(name, dataset=bundle, device='cpu', num_steps=10, params=params)
    model.train(bundle)
    return model


def noisy(model, x0, timestep):
    "The same noisy images in both coordinates, and their noise level"
    kept = model.scheduler.alphas_cumprod[timestep]
    sigma = ((1 - kept) / kept).sqrt().item()
    x = x0 + sigma * normal(x0.shape, seeds=1)
    return kept.sqrt() * x, x, sigma


OURS = dict(
    pca_locality=LocalDenoiser, optimal=OptimalDenoiser, wiener=WienerDenoiser, scfdm=SmoothedDenoiser
)
SETTINGS = dict(scfdm=dict(num_noise=10, smoothing_std=0.1))  # and their default, the 2,000 nearest images


@pytest.mark.parametrize('timestep', [20, 200, 500, 900])
@pytest.mark.parametrize('name', OURS)
def test_beside_the_studio(studio, images, tmp_path, name, timestep):
    "Their batch size of MNIST, 512; they find the windows at every call, ours are remembered"
    pixels = images.tensor()
    model = theirs(studio, name, pixels, tmp_path, 512, **SETTINGS.get(name, {}))
    latents, x, sigma = noisy(model, pixels[:BATCH], timestep)
    denoiser = OURS[name](images)
    denoiser(x, sigma)
    t, s, found, other = in_turns(
        lambda: denoiser(x, sigma), lambda: model.denoise(latents, torch.tensor(timestep))
    )
    gap = (found - other).abs().max().item()
    print(f'\n{name} at sigma {sigma:.2f}: {s / t:.1f} times as fast ({t:.3f} s), apart by {gap:.1e}')


def test_their_local_answer_depends_on_its_batch_size(studio, images, tmp_path):
    "Theirs with the set in one batch, and with 512 images at once, the published size"
    pixels = images.tensor()
    for timestep in (20, 200, 500):
        answers = []
        for batch in (len(pixels), 512):
            model = theirs(studio, 'pca_locality', pixels, tmp_path, batch, mask_threshold=0.02)
            latents, _, sigma = noisy(model, pixels[:4], timestep)
            answers.append(model.denoise(latents, torch.tensor(timestep)))
        gap = (answers[0] - answers[1]).abs()
        print(f'\nsigma {sigma:.2f}: two answers, up to {gap.max():.2g} apart, {gap.mean():.2g} on average')
        assert gap.max() > 1e-3


@pytest.mark.parametrize('sigma', [0.1, 1.0, 3.0, 10.0])
def test_beside_all_differences(images, sigma):
    "Against one pass of all squared differences in float32, and against masks times them"
    denoiser, pixels = LocalDenoiser(images), images.tensor().flatten(1)
    x = images.tensor()[:BATCH] + sigma * normal((BATCH, 1, 28, 28), seeds=1)
    masks = denoiser.windows(sigma).float() / (-2 * sigma**2)
    denoiser(x, sigma)

    def squares():
        return [(row - pixels).square_() for row in x.flatten(1)]

    def obvious():
        return [((square @ masks).softmax(0) * pixels).sum(0) for square in squares()]

    ours, pass_, *_ = in_turns(lambda: denoiser(x, sigma), squares)
    again, plain, *_ = in_turns(lambda: denoiser(x, sigma), obvious)
    print(f'\nsigma {sigma}: {ours:.3f} s, {ours / pass_:.1f} passes, masks {plain / again:.1f} times slower')
