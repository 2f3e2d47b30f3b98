"""Training, test and subsets: options, seeds, rare classes."""

import numpy as np
import pytest

from difflow import load_images
from difflow.data import save_images, stratified_order


@pytest.mark.parametrize('name', ['digits', 'mnist5k', 'colored_mnist'])
def test_train_and_test_do_not_depend_on_the_seed(name):
    parts = [[set(load_images(name, split=p, seed=s).names) for s in (0, 9)] for p in ('train', 'test')]
    assert parts[0][0] == parts[0][1] and parts[1][0] == parts[1][1]
    assert not parts[0][0] & parts[1][0] and len(parts[0][0] | parts[1][0]) == len(load_images(name))


@pytest.mark.parametrize(
    ('option', 'value', 'allowed'),
    [
        ('size', 0, '>= 1'),
        ('size', -4, '>= 1'),
        ('size', 7.5, '>= 1'),
        ('size', True, '>= 1'),
        ('size', '32', '>= 1'),
        ('max_images', 0, '>= 1'),
        ('seed', -1, '0..2**64-1'),
        ('seed', 2**64, '0..2**64-1'),
        ('seed', None, '0..2**64-1'),
        ('orient', 6, 'orient must be bool'),
        ('channels', 2, 'one of 1, 3, None'),
        ('channels', 'L', 'one of 1, 3, None'),
        ('split', 'val', 'one of all, train, test'),
        ('split', 3, 'one of all, train, test, None'),
    ],
)
def test_bad_options_are_named_before_any_work(option, value, allowed, tmp_path):
    with pytest.raises(ValueError, match=option) as e:
        load_images(tmp_path / 'is not even there', **{option: value})
    assert repr(value) in str(e.value) and allowed in str(e.value)


def test_max_images_beyond_the_set_takes_all(flat):
    assert len(load_images(flat, max_images=100)) == 6


def test_empty_part_is_refused(tmp_path, pixels):
    save_images(pixels[:1], tmp_path)
    with pytest.raises(ValueError, match="split='train' leaves none of 1"):
        load_images(tmp_path, split='train')


def test_stratified_order_of_rare_classes_and_no_labels():
    labels = np.array([0] * 90 + list(range(1, 11)))
    assert sorted(stratified_order(100, labels, 3)) == list(range(100))
    assert sorted(stratified_order(7, None)) == list(range(7)) and len(stratified_order(0, None)) == 0
    assert (stratified_order(100, labels, 1) != stratified_order(100, labels, 2)).any()
