"""Mixers beyond what the notebook shows: batched against one by one, masks, factors, bad input."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from difflow import ConcatMixer, GRUMixer, MeanMixer, SingleTime, TransformerMixer
from difflow.representations import MIXERS
from difflow.representations.mixer_networks import _MLP
from difflow.representations.mixer_training import _permutation, _split

QUICK = dict(epochs=3, lrs=(1e-2, 1e-3), seeds=2, hidden=16, batch_size=20)


def blobs(n=120, times=3, size=4, classes=3, seed=0):
    "Codes whose class is readable at the middle time alone"
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    codes = rng.normal(0, 0.5, (n, times, size)).astype(np.float32)
    codes[np.arange(n), times // 2, labels] += 3
    return torch.from_numpy(codes), torch.from_numpy(labels)


def alone(codes, labels, lr, seed, time, epochs, batch_size, hidden, decay=1e-5):
    "One SingleTime read-out trained by torch's own Adam; the best accuracy on the examples set aside"
    fit, held = (part[seed] for part in _split(len(codes), 0.1, seed + 1))
    torch.manual_seed(seed)
    net = _MLP(codes.shape[2], int(labels.max()) + 1, hidden, 0.0)
    adam, best = torch.optim.Adam(net.parameters(), lr, weight_decay=decay), 0.0
    for epoch in range(epochs):
        order = fit[_permutation(len(fit), seed, epoch)]
        for rows in order.split(batch_size):
            if len(rows) < batch_size:
                continue
            adam.zero_grad()
            cross_entropy(net(codes[rows, time]), labels[rows]).backward()
            adam.step()
        with torch.no_grad():
            right = (net(codes[held, time]).argmax(1) == labels[held]).float().mean()
        best = max(best, right.item())
    return best


def test_a_batched_grid_is_the_grid_one_by_one():
    codes, labels = blobs()
    together = SingleTime(**QUICK, dropout=0.0).fit(codes, labels).valid  # (lrs, seeds, 1, times)
    for i, lr in enumerate(QUICK['lrs']):
        for seed in range(2):
            for time in range(3):
                one = alone(codes, labels, lr, seed, time, 3, 20, 16)
                assert together[i, seed, 0, time].item() == pytest.approx(one, abs=1e-6), (lr, seed, time)


def test_a_run_does_not_depend_on_the_others_beside_it():
    codes, labels = blobs()
    both = ConcatMixer(**QUICK, dropout=0.0).fit(codes, labels).valid
    slow = ConcatMixer(**QUICK | dict(lrs=(1e-3,)), dropout=0.0).fit(codes, labels).valid
    assert torch.equal(both[1], slow[0])


@pytest.mark.parametrize('name', MIXERS)
def test_each_reader_finds_the_class(name):
    codes, labels = blobs(200)
    more = blobs(100, seed=1)
    mixer = MIXERS[name](**QUICK | dict(epochs=12, lrs=(1e-2,), hidden=32)).fit(codes, labels)
    assert mixer.score(*more) > 0.9 and mixer.predict(more[0]).shape == (100,)
    assert mixer.scores(*more).shape == (2,)
    if name == 'single':
        assert mixer.time_index.tolist() == [1]


@pytest.mark.parametrize('mask', range(5))
def test_masks_hide_their_keys(mask):
    codes, labels = blobs(60)
    reader = TransformerMixer(**QUICK | dict(epochs=1, seeds=1, lrs=(1e-3,)), mask=mask, hidden_time=0).fit(
        codes, labels
    )
    attention = reader.attention(codes)[0]
    hidden = {0: [], 1: [0], 2: [3], 3: [0, 3], 4: [1, 2, 3]}[mask]
    seen = [i for i in range(4) if i not in hidden]
    assert attention.shape == (60, 4) and np.allclose(attention.sum(1), 1, atol=1e-5)
    assert (attention[:, hidden] == 0).all() and (attention[:, seen] > 0).all()


def test_a_hidden_time_cannot_matter():
    codes, labels = blobs(60)
    reader = TransformerMixer(**QUICK | dict(epochs=1), mask=1, hidden_time=2).fit(codes, labels)
    other = codes.clone()
    other[:, 2] = 100.0
    assert torch.allclose(reader._probabilities(codes), reader._probabilities(other), atol=1e-6)


def test_standardised_codes_have_no_scale():
    codes, labels = blobs()
    plain = MeanMixer(**QUICK, standardise=True).fit(codes, labels)
    far = MeanMixer(**QUICK, standardise=True).fit(codes * 1e4 + 7, labels)
    assert (plain.predict(codes) == far.predict(codes * 1e4 + 7)).mean() > 0.98


def test_validation_may_be_given():
    codes, labels = blobs()
    reader = ConcatMixer(**QUICK).fit(codes, labels, validation=blobs(50, seed=2))
    assert reader.valid.shape == (2, 2, 1, 1)
    with pytest.raises(ValueError, match='validation has codes'):
        ConcatMixer(**QUICK).fit(codes, labels, validation=(codes[:, :2], labels))


Z, Y = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
SPOILT = Z.clone()
SPOILT[7, 1, 2] = math.nan


@pytest.mark.parametrize('name', MIXERS)
@pytest.mark.parametrize(
    'codes, labels, message',
    [
        (Z, Y[:-1], r'labels must be \(20,\)'),
        (SPOILT, Y, 'the first is 7'),
        (Z * math.inf, Y, 'codes must be finite'),
        (Z[0], Y, r'shape \(N, T, D\)'),
        (Z[:0], Y[:0], 'none of them 0'),
        (Z, Y * 0, 'factor 0 has a single class, 0'),
        (Z, torch.stack([Y, Y * 0 + 3], 1), 'factor 1 has a single class, 3'),
        (Z, Y.float(), 'labels must be integers'),
        (Z, Y - 1, 'labels must be integers >= 0'),
        (Z, Y[:, None, None], 'labels must be'),
    ],
)
def test_bad_codes_and_labels(name, codes, labels, message):
    with pytest.raises(ValueError, match=message):
        MIXERS[name]().fit(codes, labels)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(epochs=0), 'epochs must be an integer >= 1'),
        (dict(batch_size=0), 'batch_size'),
        (dict(seeds=0), 'seeds'),
        (dict(lrs=()), 'lrs'),
        (dict(lrs=(1e-3, -1.0)), 'lrs must be a number > 0'),
        (dict(lrs=(math.nan,)), 'lrs must be a number > 0'),
        (dict(weight_decay=-1.0), 'weight_decay must be a number >= 0'),
        (dict(dropout=1.0), 'dropout must be a number >= 0 and < 1'),
        (dict(validation=1.0), 'validation must be'),
        (dict(validation=0.01), 'leave none'),
    ],
)
@pytest.mark.parametrize('name', MIXERS)
def test_bad_settings_of_all(options, message, name):
    with pytest.raises(ValueError, match=message):
        MIXERS[name](**options).fit(Z, Y)


@pytest.mark.parametrize(
    'kind, options, message',
    [
        (GRUMixer, dict(hidden=0), 'hidden must be an integer >= 1, got 0'),
        (TransformerMixer, dict(hidden=0), 'hidden must be an integer >= 1, got 0'),
        (TransformerMixer, dict(hidden=30), 'multiple of heads = 4, got 30'),
        (TransformerMixer, dict(heads=5), 'multiple of heads = 5, got 256'),
        (TransformerMixer, dict(hidden=5, heads=1), 'must be even'),
        (TransformerMixer, dict(iterations=0), 'iterations must be an integer >= 1'),
        (SingleTime, dict(hidden=-1), 'hidden must be an integer >= 0'),
    ],
)
def test_widths_that_cannot_be(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
    changed = kind()
    for name, value in options.items():
        setattr(changed, name, value)
    with pytest.raises(ValueError, match=message):
        changed.fit(Z, Y)


def test_published_seeds():
    assert {name: kind().seeds for name, kind in MIXERS.items()} == dict(
        single=3, mean=3, concat=3, gru=5, transformer=5
    )


def test_random_numbers_of_the_caller_stay():
    def after(seed, fit):
        torch.manual_seed(seed)
        if fit:
            SingleTime(**QUICK | dict(epochs=1, batch_size=9)).fit(Z, Y)
        return torch.rand(1).item()

    assert after(1, True) == after(1, False) and after(2, True) != after(1, True)


def test_answers_are_what_scores_count():
    codes, labels = blobs()
    reader = SingleTime(**QUICK).fit(codes, labels)
    answers = reader.answers(codes)
    assert (
        answers.shape == (1, 2, 120)
        and ((answers == labels).float().mean(-1)[0].numpy() == reader.scores(codes, labels)).all()
    )


def test_bad_input_of_a_fitted_reader():
    reader = SingleTime(**QUICK | dict(epochs=1, batch_size=9)).fit(Z, Y)
    with pytest.raises(ValueError, match=r'codes must be \(N, 3, 4\)'):
        reader.predict(Z[:, :2])
    for score in (reader.score, reader.scores, reader.scores_by_time):
        with pytest.raises(ValueError, match='labels must have 1 factors, got 2'):
            score(Z, torch.stack([Y, Y], 1))
        with pytest.raises(ValueError, match='labels must be'):
            score(Z, Y[:-1])
    with pytest.raises(ValueError, match='not fitted'):
        SingleTime().predict(Z)
    with pytest.raises(ValueError, match='hidden_time must be an integer in 0..2, got 5'):
        TransformerMixer(mask=1).fit(Z, Y)
    with pytest.raises(ValueError, match='mask must be an integer in 0..4, got 5'):
        TransformerMixer(mask=5).fit(Z, Y)
