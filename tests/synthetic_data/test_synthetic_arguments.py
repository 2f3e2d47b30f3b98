"""Wrong arguments of the comparison of training sets: each is named before any training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from grey_squares import squares

from difflow import ImageSet, classification_accuracy_score, labelled_samples, load_denoiser
from difflow.synthetic_data import ClassifierRecipe, class_counts, compare_sets, comparison, copy_check

NAN, INF = float('nan'), math.inf
NO_NUMBERS = (NAN, INF, -INF, '3', None, [1], True)
NO_COUNTS = (*NO_NUMBERS, 2.5)
GOOD = squares(20)
CLASSY = load_denoiser('mnist-class')


def compare(**changes):
    return compare_sets({'a': GOOD}, GOOD, **dict(epochs=1, seeds=1) | changes)


def cas(**changes):
    return classification_accuracy_score(GOOD, GOOD, GOOD, **dict(epochs=1, seeds=1) | changes)


CASES = [
    ('batch_size', lambda v: ClassifierRecipe(batch_size=v), (0, 1), True),
    ('lr', lambda v: ClassifierRecipe(lr=v), (0,), False),
    ('momentum', lambda v: ClassifierRecipe(momentum=v), (-0.1, 1.1), False),
    ('weight_decay', lambda v: ClassifierRecipe(weight_decay=v), (-1,), False),
    ('classifier', lambda v: ClassifierRecipe(classifier=v), (), None),
    ('augmentation', lambda v: ClassifierRecipe(augmentation=v), ('crop',), None),
    ('dtype', lambda v: ClassifierRecipe(dtype=v), ('float16', 'bf16'), None),
    ('step', lambda v: ClassifierRecipe().rate(v, 10), (-1, 10), True),
    ('steps', lambda v: ClassifierRecipe().rate(0, v), (0,), True),
    ('epochs', lambda v: compare(epochs=v), (0, -1), False),
    ('epochs', lambda v: cas(epochs=v), (0, -1), False),
    ('steps', lambda v: compare(steps=v), (0,), True),
    ('seeds', lambda v: compare(seeds=v), (0, -1, [], [-1], [0.5]), True),
    ('seeds', lambda v: cas(seeds=v), (0, [NAN]), True),
    ('counts', lambda v: cas(counts=[v]), (1, 21), True),
    ('counts', lambda v: class_counts(v, 2), (-1, [-1, 2], [1, NAN]), True),
    ('classes', lambda v: class_counts(1, v), (0,), True),
    ('threshold', lambda v: copy_check(GOOD, GOOD, GOOD, threshold=v), (-1.1, 60), False),
]


@pytest.mark.parametrize('name, call, wrong, whole', CASES, ids=[f'{i}-{c[0]}' for i, c in enumerate(CASES)])
def test_wrong_arguments_are_named(name, call, wrong, whole, monkeypatch):
    monkeypatch.setattr(comparison, '_fit', lambda *arguments: pytest.fail('trained'))
    for value in (*wrong, *(NO_COUNTS if whole else NO_NUMBERS if whole is False else (NAN, None, 3, True))):
        if value is None and name in ('steps', 'threshold') or value == [1] and name in ('seeds', 'counts'):
            continue
        with pytest.raises(ValueError, match=rf'\b{name}\b'):
            call(value)


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda: compare_sets({'a': GOOD.tensor()}, GOOD), 'a must be an ImageSet with labels, got Tensor'),
        (lambda: compare_sets({'a': GOOD}, None), 'real_test must be an ImageSet'),
        (lambda: compare(metric='f1'), "metric must be one of accuracy, auroc, got 'f1'"),
        (lambda: compare(protocol='time'), 'protocol must be among'),
        (lambda: compare(protocol=3), 'protocol must be str or list or tuple, got 3'),
        (lambda: compare(restart='no'), 'restart must be bool'),
        (lambda: cas(counts=20), 'counts must be list'),
        (
            lambda: classification_accuracy_score(GOOD, 'nowhere', GOOD),
            "synthetic: unknown image set 'nowhere'",
        ),
        (lambda: copy_check(GOOD, GOOD, GOOD, None), 'descriptor must be SSCD or str or Path'),
        (lambda: labelled_samples(None), 'denoiser must be Denoiser'),
        (lambda: cas(lr=NAN), 'lr must be'),
        (lambda: cas(lr='fast'), 'lr must be'),
    ],
)
def test_wrong_sets_are_named(call, words, monkeypatch):
    monkeypatch.setattr(comparison, '_fit', lambda *arguments: pytest.fail('trained'))
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize('seed', [-1, 0.5, NAN, None, '3', True])
def test_seeds_of_samples(seed):
    with pytest.raises(ValueError, match='seed must be'):
        labelled_samples(CLASSY, 1, seed=seed)


def test_the_last_seed_of_samples():
    "Every image has a seed of its own, the last of which is in 0..2**64-1"
    with pytest.raises(ValueError, match=r'seed must be an integer in 0..18446744073709551606'):
        labelled_samples(CLASSY, 1, seed=2**64 - 9)
    assert len(labelled_samples(CLASSY, 1, seed=2**64 - 10, steps=1)) == 10


def test_counts_of_a_tensor_name_arms_as_numbers_do():
    given = dict(epochs=1, seeds=1, steps=1)
    arms = [
        classification_accuracy_score(GOOD, GOOD, GOOD, counts=n, **given).arms
        for n in ([4], torch.tensor([4]))
    ]
    assert arms[0] == arms[1] and arms[0][-1] == 'synthetic 4'


def test_answers_are_ordinary_numbers_that_fit():
    found = compare(steps=2, seeds=np.int64(2))
    assert found.seeds == [0, 1] and not found.answers.is_inference()
    assert torch.equal(found.answers, compare(steps=2, seeds=2).answers)
    for change, words in (
        (dict(answers=found.answers * NAN), 'answers must be finite'),
        (dict(answers=found.answers[:1]), 'answers must be for'),
        (dict(labels=found.labels[1:]), 'answers must be'),
        (dict(metric='f1'), 'metric must be'),
    ):
        with pytest.raises(ValueError, match=words):
            replace(found, **change)
    for change, words in (
        (dict(resamples=0), 'resamples'),
        (dict(seed=-1), 'seed'),
        (dict(seed=None), 'seed'),
    ):
        with pytest.raises(ValueError, match=words):
            found.resampled('steps', 'a', **change)


def test_a_training_that_diverged_is_no_answer():
    with pytest.raises(ValueError, match='the training diverged'):
        compare(recipe=ClassifierRecipe(lr=1e3, weight_decay=1e3, augmentation='none'), epochs=40)
    assert ImageSet.of(GOOD) is GOOD
