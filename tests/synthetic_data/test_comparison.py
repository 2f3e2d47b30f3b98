"""Training sets compared, and sets that do not fit"""

import math

import pytest
import torch
from grey_squares import squares

from difflow import ImageSet, load_images
from difflow.data import save_images
from difflow.synthetic_data import ClassifierRecipe, compare_sets
from difflow.synthetic_data.comparison import _check_sets, _planned_steps

PLAIN = ClassifierRecipe(augmentation='none', batch_size=16)


def test_steps_of_both_protocols():
    table = _planned_steps([50, 2000, 2050], epochs=10)
    assert table.tolist() == [[8, 313, 321], [321] * 3]
    assert _planned_steps([50, 2000], ['steps'], steps=7).tolist() == [[7, 7]]
    for bad in (
        dict(protocols=['time']),
        dict(protocols=[]),
        dict(epochs=0),
        dict(steps=0),
        dict(epochs=math.inf),
    ):
        with pytest.raises(ValueError):
            _planned_steps([1], **bad)


def test_steps_are_counted_exactly(monkeypatch):
    import difflow.synthetic_data.comparison as module

    made, real = [], module._fit

    def counting(images, classes, steps, recipe, seed, callback):
        taken = []
        network = real(images, classes, steps, recipe, seed, lambda step, loss: taken.append(step))
        made.append((len(images), seed, len(taken)))
        return network

    monkeypatch.setattr(module, '_fit', counting)
    cas = compare_sets(
        {'a': squares(16), 'b': squares(32)}, squares(20, seed=1), epochs=3, seeds=2, recipe=PLAIN
    )
    assert sorted(made) == [(16, 0, 3), (16, 0, 6), (16, 1, 3), (16, 1, 6), (32, 0, 6), (32, 1, 6)]
    assert cas.steps.tolist() == [[3, 6], [6, 6]]
    assert torch.equal(cas.answers[0, 1], cas.answers[1, 1]) and not torch.equal(
        cas.answers[0, 0], cas.answers[1, 0]
    )


def test_folders_that_count_from_elsewhere_are_refused(tmp_path):
    for name, first in (('zero', 0), ('one', 1)):
        for k in range(12):
            save_images(squares(24, 12)[k::12], tmp_path / name / str(first + k))
    for k in (3, 7):
        save_images(squares(24, 12)[k::12], tmp_path / 'two' / str(k))
    zero, one, two = (load_images(tmp_path / name) for name in ('zero', 'one', 'two'))
    plain, named = (
        squares(24, 12),
        ImageSet(squares(24, 12).images, squares(24, 12).labels, classes=list('abcdefghijkl')),
    )
    for real in (zero, plain, named):
        assert _check_sets({'real_train': real, 'synthetic': zero}) == 12
    assert _check_sets({'real_train': one, 'synthetic': one, 'real_test': plain}) == 12
    with pytest.raises(
        ValueError,
        match='synthetic calls its label 0 1: classes are missing from its folders '
        '1, 2, 3, 4, 5, ..., or real_train',
    ):
        _check_sets({'real_train': zero, 'synthetic': one})
    with pytest.raises(ValueError, match='synthetic calls its label 0 3: .* 3, 7, or'):
        _check_sets({'real_train': squares(20), 'synthetic': two})
    with pytest.raises(ValueError, match='synthetic has the classes .*3.*7.*, real_train .*a'):
        _check_sets({'real_train': named, 'synthetic': two})
