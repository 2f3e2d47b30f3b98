"""Wrong arguments of the representations: each is named before any work; results go into autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from difflow import (
    ConcatMixer,
    EDMDenoiser,
    GRUMixer,
    ImageSet,
    MeanMixer,
    SingleTime,
    TimeEncoder,
    TransformerMixer,
    UNet,
    mutual_information,
    trajectory_codes,
    unet_features,
)
from difflow.networks import CodedUNet
from difflow.representations import (
    Autoencoder,
    BatchedEnsemble,
    CodedDenoiser,
    CodeDecoder,
    gaussian_information,
    jensen_shannon,
    ksg_information,
    mask_ablation,
    mine_information,
    profile_distances,
    sigma_of,
)

NAN, INF = float('nan'), math.inf
NO_NUMBERS = (NAN, INF, -INF, '3', None, [1], True)
NO_COUNTS = (*NO_NUMBERS, 2.5)
G = torch.Generator().manual_seed(0)
Z, Y = torch.randn(40, 3, 4, generator=G), torch.arange(40) % 2
X = torch.rand(6, 1, 8, 8, generator=G) * 2 - 1


def encoder(**options):
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


def denoiser(classes=None):
    return EDMDenoiser(UNet(8, 1, 32, 1, 1, (), (1,), num_classes=classes)).eval()


def coded(**options):
    return CodedDenoiser(CodedUNet(4, 8, 1, 32, 1, 1, (), (1,)), encoder(), **options)


def mine(**options):
    return mine_information(Z[:, 0], Z[:, 1], **dict(steps=100, batch_size=8, hidden=4) | options)


def ensemble(seeds=(0, 1), lrs=(0.1, 0.1), **options):
    return BatchedEnsemble(lambda: nn.Linear(2, 2), seeds, torch.tensor(lrs), **options)


ENCODER, DENOISER = encoder(), denoiser()
CASES = [  # name, call of a value, wrong values beside those of no use, whole
    ('t', lambda v: sigma_of(2 if v == [1] else v), (-0.1, 1.1, [0.5, 1.5], [NAN]), False),
    ('t', lambda v: ENCODER(X, v), (-0.1, 1.1, torch.tensor(2.0)), False),
    ('sigma_min', lambda v: sigma_of(0.5, sigma_min=v), (0, -1), False),
    ('sigma_max', lambda v: sigma_of(0.5, sigma_max=v), (0, 0.001), False),
    ('k', lambda v: encoder(k=v), (-1, 1 / 32), False),
    ('in_channels', lambda v: encoder(in_channels=v), (0,), True),
    ('depth', lambda v: encoder(depth=v), (4, 12), True),
    ('time_scale', lambda v: encoder(time_scale=v), (0,), False),
    ('sigma_min', lambda v: encoder(sigma_min=v), (0,), False),
    ('sigma_max', lambda v: encoder(sigma_max=v), (0.01,), False),
    ('weight_z', lambda v: coded(weight_z=v), (-1,), False),
    ('sigma_data', lambda v: coded(sigma_data=v), (0,), False),
    ('weight_z', lambda v: Autoencoder(encoder(), (1, 8, 8), weight_z=v), (-1,), False),
    ('image_shape', lambda v: Autoencoder(encoder(), (1, v, v)), (0,), True),
    ('image_shape', lambda v: Autoencoder(encoder(), v), ((8, 8), (1, 8, 9)), True),
    *[
        (name, lambda v, i=i: CodeDecoder(*[v if j == i else 4 for j in range(4)]), (0,), True)
        for i, name in enumerate(('code_size', 'channels', 'size', 'width'))
    ],
    ('times', lambda v: trajectory_codes(ENCODER, X, [v]), (-0.1, 1.1), False),
    ('times', lambda v: trajectory_codes(ENCODER, X, v), ([], 0.5), False),
    ('batch_size', lambda v: trajectory_codes(ENCODER, X, batch_size=v), (0,), True),
    ('batch_size', lambda v: unet_features(DENOISER, X, [1.0], batch_size=v), (0,), True),
    ('sigmas', lambda v: unet_features(DENOISER, X, [1.0, v]), (0, -1), False),
    ('sigmas', lambda v: unet_features(DENOISER, X, v), ([], 0.5), False),
    ('seeds', lambda v: unet_features(DENOISER, X, [1.0], seeds=v), (-1,), True),
    ('noise', lambda v: mutual_information(Z, noise=v), (0, -1), False),
    ('seed', lambda v: mutual_information(Z, seed=v), (-1,), True),
    ('k', lambda v: ksg_information(Z[:, 0], Z[:, 1], k=v), (0, 5), True),
    ('parts', lambda v: ksg_information(Z[:, 0], Z[:, 1], parts=v), (0, 1, 41), True),
    ('steps', lambda v: mine(steps=v), (0, 99), True),
    ('batch_size', lambda v: mine(batch_size=v), (1, 41), True),
    ('hidden', lambda v: mine(hidden=v), (0,), True),
    ('lr', lambda v: mine(lr=v), (0,), False),
    ('seed', lambda v: mine(seed=v), (-1,), True),
    ('window', lambda v: mine(window=v), (1,), True),
    ('seeds', lambda v: ensemble(seeds=(0, v)), (-1,), True),
    ('lrs', lambda v: ensemble(lrs=(0.1, v)), (0.0,), False),
    ('weight_decay', lambda v: ensemble(weight_decay=v), (-1,), False),
    ('clip', lambda v: ensemble(clip=v), (0,), False),
    *[
        (name, lambda v, name=name, kind=kind: kind(**{name: v}), wrong, whole)
        for kind in (SingleTime, MeanMixer, ConcatMixer, GRUMixer, TransformerMixer)
        for name, wrong, whole in [
            ('epochs', (0,), True),
            ('batch_size', (0,), True),
            ('seeds', (0,), True),
            ('hidden', (-1,), True),
            ('dropout', (-0.1, 1), False),
            ('weight_decay', (-1,), False),
            ('validation', (-0.1, 1.1), False),
            ('lrs', ((), (0,), (NAN,), (1e-3, '1')), False),
        ]
    ],
    *[
        (name, lambda v, name=name: TransformerMixer(**{name: v}), wrong, True)
        for name, wrong in [
            ('heads', (0, 3)),
            ('iterations', (0,)),
            ('mask', (-1, 5)),
            ('hidden_time', (-1,)),
        ]
    ],
    ('masks', lambda v: mask_ablation((Z, Y), (Z, Y), masks=[v]), (-1, 5), True),
]

# what some of them take: nothing, a list of one, what a tensor makes a number
ALLOWED = dict.fromkeys(('hidden', 'clip', 'weight_z', 'steps'), (None,))
ALLOWED |= dict(times=([1],), sigmas=([1],), lrs=([1], True, '3', None))


@pytest.mark.parametrize('name, call, wrong, whole', CASES, ids=[f'{i}-{c[0]}' for i, c in enumerate(CASES)])
def test_wrong_numbers_are_named(name, call, wrong, whole):
    for value in (*wrong, *(NO_COUNTS if whole else NO_NUMBERS)):
        if not isinstance(value, torch.Tensor) and value in ALLOWED.get(name, ()):
            continue
        with pytest.raises(ValueError, match=rf'\b{name}\b'):
            call(value)


FITTED = SingleTime(epochs=1, seeds=1, hidden=0).fit(Z, Y)
BROKEN = Z.clone()
BROKEN[3, 1, 2] = NAN


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: trajectory_codes(ENCODER, X * NAN), 'images must be finite'),
        (lambda: trajectory_codes(ENCODER, 100 * X.abs()), r'allowed is \[-1, 1\]'),
        (lambda: trajectory_codes(ENCODER, X[:0]), 'at least one image'),
        (lambda: trajectory_codes(ENCODER, X.expand(-1, 3, -1, -1)), r'\(B, 1, H, W\)'),
        (lambda: trajectory_codes(ENCODER, None), 'images must be'),
        (lambda: trajectory_codes(ENCODER, X, out='codes.txt'), 'must end in .npz'),
        (lambda: unet_features(DENOISER, X * NAN, [1.0]), 'images must be finite'),
        (lambda: unet_features(DENOISER, X[..., :4], [1.0]), 'images has images of'),
        (lambda: unet_features(DENOISER, X, [1.0], labels=1), 'labels must be None'),
        (lambda: unet_features(denoiser(3), X, [1.0], labels=3), 'labels must be in 0..2'),
        (
            lambda: unet_features(denoiser(3), X, [1.0], labels=torch.full((6,), NAN)),
            'labels must be integers',
        ),
        (
            lambda: unet_features(denoiser(3), X, [1.0], labels=torch.zeros(5, dtype=torch.long)),
            r'shape \(6,\)',
        ),
        (lambda: ENCODER(X, torch.tensor([0.1, 0.2])), 't must be one time, or one for each of 6'),
        (lambda: ENCODER(X.numpy(), 0.1), 'x0 must be a float tensor'),
        (lambda: coded().given(X * NAN), 'x0 must be finite'),
        (lambda: coded().between(X, X * NAN, 0.5), 'x1 must be finite'),
        (lambda: mutual_information(BROKEN), 'codes must be finite: 1 rows are not, the first is 3'),
        (lambda: mutual_information('codes'), 'codes must be numbers'),
        (lambda: mutual_information(Z, 'mine', steps=99, batch_size=8), 'steps must be an integer >= 100'),
        (lambda: mine_information(BROKEN[:, 1], Z[:, 0]), 'x and y must be finite'),
        (lambda: mine_information(None, Z[:, 0]), 'x must be an array or tensor'),
        (lambda: ksg_information(Z[:, 0], 'y'), 'y must be an array or tensor'),
        (lambda: gaussian_information(torch.ones(40, 2), Z[:, 0]), 'x and y must vary in every direction'),
        (lambda: SingleTime().fit(BROKEN, Y), 'the first is 3'),
        (lambda: SingleTime().fit(Z, torch.where(Y > 0, NAN, 0.0)), 'labels must be integers'),
        (lambda: SingleTime().fit(Z, [None] * 40), 'labels must be numbers'),
        (lambda: SingleTime().fit(Z, torch.zeros(40, 0, dtype=torch.long)), 'labels must be'),
        (lambda: SingleTime().fit(Z, None), r'labels must be \(N,\) or \(N, F\), got None'),
        (lambda: FITTED.scores(Z, None), r'labels must be \(N,\) or \(N, F\), got None'),
        (lambda: FITTED.scores_by_time(Z, None), r'labels must be \(N,\) or \(N, F\), got None'),
        (lambda: SingleTime().fit(Z, Y, Z), 'validation must be tuple or list'),
        (lambda: SingleTime().fit(Z, Y, (Z,)), 'validation must be codes and labels, got 1 thing'),
        (lambda: SingleTime().fit(Z, Y, (Z, None)), 'labels must be'),
        (lambda: GRUMixer(standardise='no'), 'standardise must be bool'),
        (lambda: encoder(probabilistic='no'), 'probabilistic must be bool'),
        (lambda: unet_features(DENOISER, X, [1.0], layer=[]), 'layer must be str or None'),
        (lambda: SingleTime(validation=0).fit(Z, Y), 'validation must be a number > 0 and < 1'),
        (lambda: jensen_shannon([NAN, 1.0], [0.5, 0.5]), 'p must be 2 numbers'),
        (lambda: jensen_shannon([0.5, 0.5], [NAN, NAN]), 'q must be 2 numbers'),
        (lambda: profile_distances(np.ones(3)), r'profiles must be \(F, T\)'),
        (lambda: ensemble(lrs=(0.1,)), 'lrs must be 2 numbers > 0'),
        (lambda: ensemble(seeds=(), lrs=()), 'lrs must be 0 numbers'),
    ],
)
def test_wrong_sets_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_numbers_of_numpy_are_numbers():
    assert encoder(depth=np.int64(10)).config == encoder().config
    assert all(
        type(v) in (int, float, bool) for v in encoder(k=np.float64(1), depth=np.int64(10)).config.values()
    )
    assert SingleTime(epochs=np.int64(3)) == SingleTime(epochs=3)
    one, two = (trajectory_codes(ENCODER, X, t, n) for t, n in (([0.5], 4), (np.array([0.5]), np.int64(4))))
    assert torch.equal(one, two)


def test_what_holds_images_makes_no_difference():
    held = ImageSet.of(X)
    assert torch.equal(trajectory_codes(ENCODER, X, [0.5]), trajectory_codes(ENCODER, held, [0.5]))
    assert torch.equal(unet_features(DENOISER, X, [0.5]), unet_features(DENOISER, held, [0.5]))


def test_features_and_codes_can_be_read_by_a_probe():
    "Cases E6: an inference tensor cannot be saved for backward"
    for features in (unet_features(DENOISER, X, [1.0])[:, 0], trajectory_codes(ENCODER, X, [0.5])[:, 0]):
        assert not features.is_inference() and not features.requires_grad
        probe = nn.Linear(features.shape[1], 10)
        probe(features).mean().backward()
        assert probe.weight.grad.isfinite().all()


def test_answers_of_a_mixer_are_ordinary_tensors():
    mixer = TransformerMixer(epochs=1, seeds=1, lrs=(1e-3,), hidden=8, batch_size=20, hidden_time=0).fit(Z, Y)
    for answer in (mixer.probabilities(Z), mixer.answers(Z), mixer.valid):
        assert not answer.is_inference() and not answer.requires_grad
