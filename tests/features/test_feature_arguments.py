"""Wrong arguments of the features' functions: each is named before any work; results go into autograd."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from difflow import SSCD, ImageSet, load_images, sscd_features
from difflow.features import (
    SmallClassifier,
    SSCDAugmentation,
    SSCDSettings,
    activation_statistics,
    calibrate_threshold,
    fid,
    image_features,
    image_metrics,
    kid,
    load_classifier,
    load_descriptor,
    micro_average_precision,
    precision_recall,
    random_warp,
    train_classifier,
    train_sscd,
)
from difflow.features.descriptors import check_features, load_features

A = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
UNIT = F.normalize(A, dim=1)
X = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
DIGITS = ImageSet((X * 127 + 128).to(torch.uint8), torch.arange(6) % 3)
NAN, INF = float('nan'), math.inf


def spoilt(value, row=7):
    features = A.clone()
    features[row, 2] = value
    return features


@pytest.mark.parametrize('metric', [fid, kid, precision_recall, image_metrics])
@pytest.mark.parametrize(
    'features, words',
    [
        (spoilt(NAN), 'NaN or infinity, the first is row 7'),
        (spoilt(INF), 'NaN or infinity, the first is row 7'),
        (spoilt(-INF).numpy(), 'NaN or infinity'),
        (A[:1], 'at least 2 rows, got 1'),
        (A[:0], 'none of them 0'),
        (A[:, :0], 'none of them 0'),
        (A > 0, 'must be floats'),
        (X[:1], 'at least 2 images, got 1'),
        (torch.full((4, 1, 28, 28), NAN), 'finite'),
        (torch.full((4, 1, 28, 28), 200.0), r'allowed is \[-1, 1\]'),
        (None, 'got NoneType'),
        (A.tolist(), 'got float'),
    ],
)
def test_metrics_refuse_what_are_no_features(metric, features, words):
    with pytest.raises(ValueError, match=words) as first:
        metric(features, A)
    with pytest.raises(ValueError, match=words) as second:
        metric(A, features)
    assert 'real' in str(first.value) and 'synthetic' in str(second.value)


@pytest.mark.parametrize('metric', [fid, kid, precision_recall, image_metrics])
def test_features_of_two_networks_are_refused(metric):
    with pytest.raises(ValueError, match='real has 6 features an image, synthetic 4'):
        metric(A, A[:, :4])


def test_a_network_that_answers_nan_is_named():
    with pytest.raises(ValueError, match='features of images: 6 of 6 rows hold NaN'):
        image_features(DIGITS, lambda x: x.flatten(1) * NAN)


def test_metrics_of_few_rows_are_numbers():
    assert all(math.isfinite(v) for v in (*kid(A[:2], A[2:4]), *kid(A[:3], A[2:5]), fid(A[:2], A[2:4])))
    assert all(math.isfinite(v) for v in image_metrics(A[:4], A[4:8]).values())
    assert kid(A, A + 1, np.int64(3), np.int64(10)) == kid(A, A + 1, 3, 10)


NO_NUMBERS = (NAN, INF, -INF, '3', None, [1], True)  # of no use to anybody
NO_COUNTS = (*NO_NUMBERS, 2.5)


def classifier(**changes):
    return train_classifier(SmallClassifier({'a': 3}, width=4), DIGITS, steps=1, batch_size=2, **changes)


CASES = [  # name, call of a value, wrong values beside those of no use, whole
    ('subsets', lambda v: kid(A, A, subsets=v), (0, -1), True),
    ('subset_size', lambda v: kid(A, A, subset_size=v), (0, 1), True),
    ('seed', lambda v: kid(A, A, seed=v), (-1,), True),
    ('seed', lambda v: image_metrics(A, A, seed=v), (-1,), True),
    ('k', lambda v: precision_recall(A, A, k=v), (0, 40), True),
    ('k', lambda v: image_metrics(A, A, k=v), (0, 40), True),
    ('batch_size', lambda v: image_features(DIGITS, batch_size=v), (0, -1), True),
    ('batch_size', lambda v: image_features(A, batch_size=v), (0,), True),
    ('width', lambda v: SmallClassifier(width=v), (1,), True),
    ('head', lambda v: SmallClassifier({'a': v}), (1,), True),
    ('image_shape', lambda v: SmallClassifier(image_shape=(1, v, 28)), (0, -1), True),
    ('image_shape', lambda v: SmallClassifier(image_shape=v), ((1, 28), 28, 'abc'), True),
    ('strength', lambda v: random_warp(X, strength=v), (-1,), False),
    ('seed', lambda v: random_warp(X, seed=v), (-1,), True),
    ('step', lambda v: random_warp(X, step=v), (-1,), True),
    ('strength', lambda v: classifier(strength=v), (-1,), False),
    ('smoothing', lambda v: classifier(smoothing=v), (-0.1, 1.1), False),
    ('dims', lambda v: SSCD('small', v), (0,), True),
    ('p', lambda v: SSCD('small', 8, v), (0.5,), False),
    ('cells', lambda v: SSCD('small', 8, cells=v), (0,), True),
    ('channels', lambda v: SSCD('small', 8, channels=v), (0,), True),
    ('widths', lambda v: SSCD('small', 8, widths=(v, 8, 8)), (0,), True),
    ('threshold', lambda v: SSCD('small', 8, threshold=v), (-1.1, 60), False),
    ('threshold', lambda v: load_descriptor('mnist5k', threshold=v), (-1.1, 60), False),
    ('seed', lambda v: SSCDAugmentation()(X, v), (-1,), True),
    ('rate', lambda v: calibrate_threshold(UNIT, UNIT, v), (-0.1, 1), False),
    *[
        (name, lambda v, name=name: SSCDAugmentation(**{name: v}), (-0.1,), False)
        for name in 'p degrees scale shear shift warp blur noise contrast invert erase'.split()
    ],
    *[
        (
            name,
            lambda v, name=name: SSCDSettings(**{name: v}),
            (-1,),
            name in ('steps', 'batch_size', 'warmup', 'seed'),
        )
        for name in 'steps batch_size lr warmup weight_decay temperature entropy mixup seed'.split()
    ],
]


@pytest.mark.parametrize('name, call, wrong, whole', CASES, ids=[f'{i}-{c[0]}' for i, c in enumerate(CASES)])
def test_wrong_numbers_are_named(name, call, wrong, whole):
    optional = name in ('threshold', 'subset_size')
    for value in (*wrong, *(NO_COUNTS if whole else NO_NUMBERS)):
        if value is None and optional:
            continue
        with pytest.raises(ValueError, match=name):
            call(value)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: random_warp(X[0]), 'images must be floats'),
        (lambda: random_warp(DIGITS.images), 'images must be floats'),
        (lambda: SSCDAugmentation()(X[0]), 'images must be a float tensor'),
        (lambda: SSCDAugmentation()(X.numpy()), 'images must be a float tensor'),
        (lambda: train_classifier(SmallClassifier(), X), 'images must be an ImageSet'),
        (lambda: classifier(seed=-1), 'seed'),
        (lambda: train_classifier(SmallClassifier({'a': 2}), DIGITS), 'labels 0..2: allowed is 0..1'),
        (lambda: train_classifier(SmallClassifier(image_shape=(3, 28, 28)), DIGITS), 'images has images of'),
        (lambda: train_sscd(SSCD('small', 8), X * NAN, batch_size=2), 'images'),
        (lambda: train_sscd(SSCD('small', 8), X, batch_size=7), 'batch_size must be an integer in 2..6'),
        (lambda: SSCD('small', 8, colour=3), 'small takes no colour'),
        (lambda: SSCD('small', 8, widths=(8, 8)), 'widths must be three integers'),
        (lambda: SmallClassifier({}), 'heads must name'),
        (lambda: calibrate_threshold(spoilt(NAN), UNIT), 'new: 1 of 40 rows hold NaN'),
        (lambda: calibrate_threshold(UNIT, A), 'references: 40 of 40 rows are not of length 1'),
        (lambda: calibrate_threshold(UNIT, torch.eye(3)), 'new has 6 dimensions, references 3'),
        (lambda: micro_average_precision(A * NAN, A > 0), 'similarity holds NaN'),
        (lambda: check_features([[1.0]]), 'not list'),
        (lambda: check_features(None), 'not NoneType'),
    ],
)
def test_wrong_sets_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize('value', ['no', 2, None, []])
@pytest.mark.parametrize(
    'name, call',
    [
        ('truncate', lambda v: load_classifier('mnist5k', truncate=v)),
        ('second_moment', lambda v: activation_statistics(SmallClassifier(), X, ['*'], second_moment=v)),
        ('progress', lambda v: activation_statistics(SmallClassifier(), X, ['*'], progress=v)),
        ('progress', lambda v: train_sscd(SSCD('small', 8), X, progress=v)),
        ('progress', lambda v: sscd_features(X, SSCD('small', 8), progress=v)),
        ('restart', lambda v: sscd_features(X, SSCD('small', 8), out='f.npz', restart=v)),
    ],
)
def test_flags_are_true_or_false(name, call, value):
    with pytest.raises(ValueError, match=f'{name} must be bool'):
        call(value)


def test_seeds_of_descriptors_are_kept_to_the_last(tmp_path):
    seeds = np.arange(6, dtype=np.uint64) + 2**63 - 6
    sscd_features(X, SSCD('small', 8), out=tmp_path / 'f.npz', seeds=seeds)
    assert load_features(tmp_path / 'f.npz').seeds.tolist() == seeds.tolist()
    for wrong in (seeds + np.uint64(1), [0.5] * 6, torch.zeros(6), range(7), 'abcdef', 3):
        with pytest.raises(ValueError, match='seeds must be'):
            sscd_features(X, SSCD('small', 8), seeds=wrong)


def test_numbers_of_numpy_are_numbers():
    assert (
        SmallClassifier({'a': np.int64(3)}, width=np.int64(4)).config
        == SmallClassifier({'a': 3}, width=4).config
    )
    assert SSCDSettings(steps=np.int32(5)) == SSCDSettings(steps=5)
    assert torch.equal(random_warp(X, np.int64(3)), random_warp(X, 3))


def test_features_can_be_read_by_a_probe():
    digits = load_images('mnist5k', max_images=4)
    for features in (
        image_features(digits),
        sscd_features(digits),
        load_descriptor('mnist5k')(digits.tensor()),
    ):
        assert not features.is_inference()
        probe = nn.Linear(features.shape[1], 2)
        probe(features).mean().backward()
        assert probe.weight.grad.isfinite().all()
