"""Agreement of denoisers: closed forms, the sums of squares by hand, intervals, labels, ranges."""

import numpy as np
import pytest
import torch

from difflow import (
    Denoiser,
    GaussianDenoiser,
    OptimalDenoiser,
    denoiser_agreement,
    load_denoiser,
    load_images,
    normal,
)
from difflow.reproducibility.agreement import _Agreement

SHAPE = (1, 4, 4)


class Line(Denoiser):
    "a x + b"

    image_shape = SHAPE

    def __init__(self, a, b=0.0):
        super().__init__()
        self.a, self.b = a, b

    def denoise(self, x, sigma, labels):
        return self.a * x + self.b


X0 = normal((12, *SHAPE), seeds=1)


def test_itself():
    found = denoiser_agreement(Line(0.5), Line(0.5), X0, [0.1, 1.0])
    assert (found.r2 == 1).all() and (found.pooled == 1).all()
    assert np.abs(found.correlation - 1).max() < 1e-12
    assert all((end == 1).all() for end in found.interval)


def test_contrast_and_brightness_in_closed_form():
    sigmas = [0.2, 1.0, 4.0]
    found = denoiser_agreement(Line(0.6, 0.3), Line(1.0), X0, sigmas, seeds=5, batch_size=5)
    for i, sigma in enumerate(sigmas):
        x = (X0 + sigma * normal(X0.shape, 5)).double().flatten(1)
        error = (-0.4 * x + 0.3).square().sum(1)
        spread = (x - x.mean(1, keepdim=True)).square().sum(1)
        assert np.abs(found.each[i] - (1 - error / spread).numpy()).max() < 1e-5
        assert abs(found.pooled[i] - (1 - error.sum() / spread.sum()).item()) < 1e-6
        assert abs(found.correlation[i] - 1) < 1e-6


def test_constant_answers():
    found = denoiser_agreement(Line(0.0, 0.4), Line(1.0), X0, 0.5)
    assert found.r2[0] <= 0 and found.correlation[0] == 0
    same = denoiser_agreement(Line(0.0, 0.4), Line(0.0, 0.4), X0, 0.5)
    assert same.r2[0] == 1
    other = denoiser_agreement(Line(0.0, 0.4), Line(0.0, 0.5), X0, 0.5)
    assert other.r2[0] == -np.inf


def test_unlike_noise_is_near_zero():
    "Two independent Gaussian fields: the squared correlation is 1 / (D - 1) on average"
    count, dim = 4000, 64
    a, b = normal((2, count, dim), seeds=7).double().numpy()
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    parts = [(a - b) ** 2, b * b, a * a, a * b]
    found = _Agreement(np.ones(1), *(p.sum(1)[None] for p in parts))
    assert abs(found.correlation[0] - 1 / (dim - 1)) < 5 * (2 / (dim - 1) ** 2 / count) ** 0.5
    assert abs(found.pooled[0] + 1) < 5 * 2 * (2 / (dim * count)) ** 0.5


def test_interval_covers_the_mean_as_often_as_it_should():
    "On lognormal errors of 40 images, whose mean is known: in 176 of 200 trials at least"
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        errors = rng.lognormal(0, 0.5, (1, 40)) / 10
        ones = np.ones((1, 40))
        low, high = _Agreement(np.ones(1), errors, ones, ones, ones).interval
        inside += low[0] <= 1 - np.exp(0.125) / 10 <= high[0]
    assert 176 <= inside <= 199


def test_noise_of_an_image_is_its_own():
    "Half of the images, and any size of the batch: the same numbers"
    a, b = GaussianDenoiser(torch.zeros(SHAPE), 0.3), OptimalDenoiser(X0)
    whole = denoiser_agreement(a, b, X0, [0.5, 2.0], seeds=range(12))
    part = denoiser_agreement(a, b, X0[6:], [2.0], seeds=range(6, 12), batch_size=4)
    assert np.abs(whole.each[1, 6:] - part.each[0]).max() < 1e-5


def test_labels_reach_the_denoisers_that_have_classes():
    model, digits = load_denoiser('mnist-class'), load_images('mnist5k', split='test')[:6]
    right = denoiser_agreement(model, model, digits, 1.0, labels=digits.labels)
    assert right.r2[0] == 1
    conditional = OptimalDenoiser(X0, labels=torch.arange(12) % 2)
    both = denoiser_agreement(Line(0.5), conditional, X0, 1.0, labels=torch.arange(12) % 2)
    assert np.isfinite(both.errors).all()


def test_what_does_not_fit():
    line = Line(1.0)
    for message, arguments in (
        ('a must be Denoiser', (None, line, X0, 1.0)),
        ('must have the shape', (line, line, torch.zeros(2, 1, 5, 5), 1.0)),
        ('sigmas must be a number > 0', (line, line, X0, [0.0])),
        ('sigmas must be at least one', (line, line, X0, [])),
    ):
        with pytest.raises(ValueError, match=message):
            denoiser_agreement(*arguments)
    with pytest.raises(ValueError, match='labels must be None'):
        denoiser_agreement(line, line, X0, 1.0, labels=1)
    with pytest.raises(ValueError, match='seeds must be one for each of 12 images'):
        denoiser_agreement(line, line, X0, 1.0, seeds=[1, 2])
    network = load_denoiser('mnist')
    network.sigma_max = 80.0
    with pytest.raises(ValueError, match=r'sigmas must be in 0..80, got 81'):
        denoiser_agreement(network, network, torch.zeros(1, 1, 28, 28), 81.0)
