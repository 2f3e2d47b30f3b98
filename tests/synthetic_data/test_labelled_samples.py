"""Labelled samples, their score, and copies among them"""

import numpy as np
import pytest
import torch
from grey_squares import squares

from difflow import (
    Denoiser,
    ImageSet,
    classification_accuracy_score,
    labelled_samples,
    load_denoiser,
    load_images,
)
from difflow.data import save_images
from difflow.synthetic_data import class_counts, copy_check
from difflow.synthetic_data.cas_scores import _METRICS
from difflow.synthetic_data.comparison import _check_sets
from difflow.synthetic_data.samples import _labels_and_seeds


def test_separable_classes_are_learned_and_all_metrics_are_one():
    cas = classification_accuracy_score(
        squares(60, 3),
        squares(90, 3, seed=2),
        squares(60, 3, seed=3),
        counts=[30],
        epochs=20,
        seeds=2,
        augmentation='none',
        batch_size=16,
    )
    assert cas.arms == ['real', 'synthetic', 'real + synthetic', 'synthetic 30'] and cas.sizes == [
        60,
        90,
        150,
        30,
    ]
    for metric in _METRICS:
        for arm in cas.arms:
            assert cas.with_metric(metric).values('steps', arm).tolist() == [1, 1]
    mean, low, high = cas.estimate('steps', 'real')
    assert (mean, high) == (1, 1) and low == pytest.approx(0.025 ** (1 / 60))
    assert cas.confusion('steps', 'real').tolist() == [[40, 0, 0], [0, 40, 0], [0, 0, 40]]


def test_sets_that_do_not_fit_are_refused(tmp_path):
    good, train = squares(20), dict(epochs=1, seeds=1)
    bad = {
        'no labels': ImageSet(good.images),
        'labels per image, not 1': ImageSet(good.images, torch.zeros(20, 2)),
        'has labels 0..2': squares(21, 3),
        'has one class: a classifier needs at least 2': ImageSet(good.images, torch.zeros(20)),
        'of \\(3, 8, 8\\)': squares(20, channels=3),
        'of \\(1, 9, 9\\)': squares(20, size=9),
        'at least 2 images, got 1': good[:1],
    }
    for message, images in bad.items():
        for place in range(1, 3):
            sets = [good, good, good]
            sets[place] = images
            with pytest.raises(ValueError, match=message):
                classification_accuracy_score(*sets, **train)
    with pytest.raises(ValueError, match='counts must be an integer in 2..20, got 30'):
        classification_accuracy_score(good, good, good, counts=[30])


def test_folders_with_one_class_several_sizes_and_other_classes(tmp_path):
    good = squares(20)
    for name, classes in (('one', ['cat']), ('two', ['cat', 'dog']), ('others', ['cat', 'cow'])):
        for k, kind in enumerate(classes):
            save_images(good[k::2], tmp_path / name / kind)
    save_images(squares(2, size=9), tmp_path / 'sizes' / 'cat')
    save_images(good, tmp_path / 'sizes' / 'dog', [f'{i + 5}' for i in range(20)])
    two = load_images(tmp_path / 'two')
    with pytest.raises(ValueError, match='has one class: a classifier needs at least 2'):
        _check_sets({'real_train': load_images(tmp_path / 'one')})
    with pytest.raises(ValueError, match='synthetic has the classes .*cow.*, real_train .*dog'):
        classification_accuracy_score(two, tmp_path / 'others', two)
    with pytest.raises(ValueError, match='pass size= and channels='):
        classification_accuracy_score(two, tmp_path / 'sizes', two)
    assert _check_sets({'real_train': two, 'synthetic': good}) == 2  # numbers go with any names


def test_counts():
    assert class_counts(3, 4).tolist() == [3, 3, 3, 3] and class_counts(
        {'b': 2, 0: 1}, 2, ['a', 'b']
    ).tolist() == [1, 2]
    for bad, message in (
        ({5: 1}, 'class 5 is unknown'),
        ({'c': 1}, "class 'c' is unknown"),
        ([1], '1 counts for 2'),
        ([-1, 2], 'counts must be an integer >= 0, got -1'),
        (0, 'at least one image, got 2 times 0'),
        (2.5, 'an integer >= 0, got 2.5'),
        ({0: 2.7}, 'an integer >= 0, got 2.7'),
        (True, 'got True'),
        ('x', "got 'x'"),
        ([1, None], 'got None'),
    ):
        with pytest.raises(ValueError, match=message):
            class_counts(bad, 2, ['a', 'b'])
    assert (
        class_counts(torch.tensor([1, 0]), 2).tolist()
        == class_counts(np.array([1, 0]), 2).tolist()
        == class_counts({0: 1}, 2).tolist()
        == [1, 0]
    )


def test_seeds_are_distinct_and_every_beginning_is_balanced():
    counts = torch.tensor([100, 10, 40])
    labels, seeds = _labels_and_seeds(counts, 5)
    assert len(set(seeds)) == 150 and labels.bincount().tolist() == counts.tolist() and min(seeds) >= 5
    for n in (15, 60, 120):
        assert (labels[:n].bincount(minlength=3) - counts * n / 150).abs().max() <= 1
    more = dict(
        zip(*[x if isinstance(x, list) else x.tolist() for x in _labels_and_seeds(counts + 7, 5)[::-1]])
    )
    assert all(more[seed] == label for seed, label in zip(seeds, labels.tolist()))


class ClassGaussians(Denoiser):
    "The exact denoiser of images that are Gaussian around the grey level of their class, deviation 0.05"

    image_shape, num_classes = (1, 2, 2), 4

    def denoise(self, x, sigma, labels):
        mean = (labels / 2 - 0.75)[:, None, None, None]
        return mean + 0.05**2 / (0.05**2 + sigma**2) * (x - mean)


def test_samples_have_their_labels_whatever_the_batch():
    made = labelled_samples(ClassGaussians(), [3, 0, 5, 1], batch_size=4, steps=8)
    assert made.labels.bincount(minlength=4).tolist() == [3, 0, 5, 1] and len(made) == 9
    assert torch.equal(((made.tensor().mean((1, 2, 3)) + 0.75) * 2).round().long(), made.labels)
    again = labelled_samples(ClassGaussians(), {2: 5}, batch_size=2, steps=8)
    assert (again.images.int() - made[made.labels == 2].images.int()).abs().max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in made.images}) == 9
    with pytest.raises(ValueError, match='needs a denoiser with classes'):
        labelled_samples(load_denoiser('digits'), 1)


def test_copies_are_found():
    train, test = (
        load_images('mnist5k', split='train', max_images=60),
        load_images('mnist5k', split='test', max_images=40),
    )
    found = copy_check(train, train[:20], test)
    assert found.synthetic.value == 1 and found.real_test.value < 0.2 and '100.0 %' in str(found)
