"""Distances between sets of images against closed forms"""

import numpy as np
import pytest
import torch
from torch import nn

from difflow import ImageSet, load_images
from difflow.features import fid, image_features, image_metrics, kid, precision_recall


def squares(n, classes=2, size=8, channels=1, seed=0):
    "Uniform grey levels, one a class, with a little noise"
    labels = torch.arange(n) % classes
    levels = (labels * 200 // (classes - 1) + 20)[:, None, None, None]
    noise = torch.randint(-15, 16, (n, channels, size, size), generator=torch.Generator().manual_seed(seed))
    return ImageSet((levels + noise).clamp(0, 255).to(torch.uint8), labels)


def gaussian(n, mean, spread, seed):
    "Points whose sample mean and covariance are `mean` and spread @ spread.T"
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return mean + x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T @ spread.T


def test_fid_is_the_closed_form():
    from scipy.linalg import sqrtm

    rng = torch.Generator().manual_seed(0)
    means, spreads = torch.randn(2, 4, generator=rng).double(), torch.randn(2, 4, 4, generator=rng).double()
    a, b = (gaussian(50, m, s, i) for i, (m, s) in enumerate(zip(means, spreads)))
    one, two = (s @ s.T for s in spreads)
    closed = (
        (means[0] - means[1]).square().sum()
        + (one + two).trace()
        - 2 * np.trace(sqrtm((one @ two).numpy()).real)
    )
    assert fid(a, b) == pytest.approx(closed.item(), rel=1e-6) and abs(fid(a, a)) < 1e-6


def test_kid_is_unbiased_and_repeats_itself():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    values = [
        kid(
            *torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(i)).double(),
            subsets=1,
            subset_size=60,
        )[0]
        for i in range(20)
    ]
    assert min(values) < 0 < max(values)
    assert kid(x, x + 1, seed=1) == kid(x, x + 1, seed=1) and kid(x, x + 1)[0] > 0.1


def test_precision_and_recall_by_enumeration():
    real, made = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[0.5], [2.5], [30.0], [31.0]])
    # k = 1: balls of radius 1, 1, 1, 8 around the real, 2, 2, 1, 1 around the made points
    assert precision_recall(real, made, k=1) == (0.5, 0.75)
    assert precision_recall(real, real, k=1) == (1, 1) == precision_recall(real, real[[2, 0, 3, 1]], k=3)
    with pytest.raises(ValueError, match='k must be an integer in 1..3, got 4'):
        precision_recall(real, made, k=4)


def test_metrics_of_images_compute_features_once():
    calls = []

    def extract(images):
        calls.append(len(images))
        return images.flatten(1)

    a, b = squares(30), squares(40, seed=1)
    found = image_metrics(a, b, extract)
    assert calls == [30, 40] and set(found) == {'fid', 'kid', 'kid_std', 'precision', 'recall'}
    assert found['fid'] == pytest.approx(fid(a.tensor().flatten(1), b.tensor().flatten(1)))


def test_feature_networks():
    import torchvision

    images = squares(3, size=32, channels=3)
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = nn.Identity()
    assert image_features(images, network).shape == (3, 512)
    assert image_features(load_images('mnist5k', max_images=20)).shape == (20, 128)
    with pytest.raises(ValueError, match='unknown classifier'):
        image_features(images, 'resnet7')
    with pytest.raises(ValueError, match=r'features of images must be floats \(N, dims\)'):
        image_features(images, lambda x: x)


@pytest.mark.parametrize(
    'missing, error, message',
    [
        (
            ModuleNotFoundError,
            ValueError,
            r'torch-fidelity \(pip install torch-fidelity\); else name a classifier: .*mnist5k',
        ),
        (OSError, ConnectionError, 'weights of Inception could not be fetched'),
    ],
)
def test_inception_says_what_it_lacks(missing, error, message, monkeypatch):
    import torchmetrics.image.fid as theirs

    def lacking(*arguments):
        raise missing('no')

    monkeypatch.setattr(theirs, 'NoTrainInceptionV3', lacking)
    with pytest.raises(error, match=message):
        image_metrics(squares(3), squares(3), 'inception')
