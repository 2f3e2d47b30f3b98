"""Training sets compared, scores against scikit-learn, and distances against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from difflow.checkpoints.load import load_denoiser
from difflow.data.canvas import save_images
from difflow.data.sets import ImageSet, load_images
from difflow.denoisers.base import Denoiser
from difflow.features.fidelity import fid, image_features, image_metrics, kid, precision_recall
from difflow.synthetic_data.cas_training import (
    _METRICS,
    Recipe,
    _auroc,
    _fit,
    _make_classifier,
    _score,
    _shift_flip,
)
from difflow.synthetic_data.comparison import CAS, _check_sets, _planned_steps, compare_sets
from difflow.synthetic_data.samples import (
    _labels_and_seeds,
    class_counts,
    classification_accuracy_score,
    copy_check,
    labelled_samples,
)

PLAIN = Recipe(augmentation='none', batch_size=16)


def squares(n, classes=2, size=8, channels=1, seed=0):
    "Uniform grey levels, one a class, with a little noise"
    labels = torch.arange(n) % classes
    levels = (labels * 200 // (classes - 1) + 20)[:, None, None, None]
    noise = torch.randint(-15, 16, (n, channels, size, size), generator=torch.Generator().manual_seed(seed))
    return ImageSet((levels + noise).clamp(0, 255).to(torch.uint8), labels)


# Networks and training


@pytest.mark.parametrize(
    'kind, shape',
    [
        ('auto', (1, 8, 8)),
        ('auto', (3, 32, 32)),
        ('resnet18', (1, 28, 28)),
        ('resnet18', (3, 64, 64)),
        ('resnet18', (1, 80, 80)),
    ],
)
def test_classifiers_take_their_images(kind, shape):
    assert _make_classifier(kind, shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_large_images_get_the_published_network_and_small_ones_its_stem():
    large, small = _make_classifier('auto', (3, 33, 33), 5), _make_classifier('resnet50', (1, 32, 32), 5)
    assert large.fc.in_features == 2048 and large.conv1.stride == (1, 1) and small.conv1.in_channels == 1
    assert isinstance(small.maxpool, nn.Identity)
    assert _make_classifier('resnet50', (3, 65, 65), 5).conv1.stride == (2, 2)


def test_training_repeats_itself_and_leaves_the_generator_of_torch():
    state = torch.random.get_rng_state()
    one, two, other = (_fit(squares(20), 2, 3, PLAIN, seed) for seed in (1, 1, 2))
    weights = lambda network: torch.cat([p.flatten() for p in network.parameters()])
    assert torch.equal(weights(one), weights(two)) and not torch.equal(weights(one), weights(other))
    assert torch.equal(state, torch.random.get_rng_state())


def test_learning_rate_is_the_published_cosine():
    recipe, steps = Recipe(), 100
    rates = [recipe.rate(s, steps) for s in range(steps)]
    assert rates[0] == 0.1 and rates[50] == pytest.approx(0.05) and rates[-1] < 1e-4
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step(), scheduler.step()


def test_shift_flip_keeps_pixels_of_its_image():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16)
    assert torch.equal(_shift_flip(images, 3), images)
    assert not torch.equal(_shift_flip(squares(4).tensor(), 3, 0), _shift_flip(squares(4).tensor(), 3, 1))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(lr=0), 'lr must be in'),
        (dict(batch_size=1), 'batch_size must be in 2..'),
        (dict(momentum=2), 'momentum must be in 0..1, got 2'),
        (dict(augmentation='crop'), "got 'crop'"),
    ],
)
def test_bad_recipes(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


# Scores


@pytest.mark.parametrize('classes', [2, 3, 10])
@pytest.mark.parametrize('ties', [False, True])
def test_auroc_is_that_of_scikit_learn(classes, ties):
    from sklearn.metrics import roc_auc_score

    rng = torch.Generator().manual_seed(classes)
    answers = torch.randn(200, classes, generator=rng).softmax(1).double()
    if ties:
        answers = (answers * 5).round()
    labels = torch.randint(classes, (200,), generator=rng)
    each = [roc_auc_score((labels == k).numpy(), answers[:, k].numpy()) for k in range(classes)]
    assert _score(answers, labels, 'auroc').item() == pytest.approx(np.mean(each), abs=1e-12)


def test_weights_are_repetitions():
    rng = torch.Generator().manual_seed(0)
    answers, labels = torch.randn(60, 3, generator=rng).softmax(1), torch.arange(60) % 3
    times = torch.randint(0, 4, (5, 60), generator=rng)
    for metric in _METRICS:
        together = _score(answers, labels, metric, times.float())
        for row, value in zip(times, together):
            i = torch.arange(60).repeat_interleave(row)
            assert _score(answers[i], labels[i], metric).item() == pytest.approx(value.item(), abs=1e-9)


def test_auroc_without_positives_is_unknown():
    assert _auroc(torch.rand(5), torch.zeros(5, dtype=torch.bool)).isnan().all()


# Comparisons


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

    monkeypatch.setattr(module, 'fit', counting)
    cas = compare_sets(
        {'a': squares(16), 'b': squares(32)}, squares(20, seed=1), epochs=3, seeds=2, recipe=PLAIN
    )
    assert sorted(made) == [(16, 0, 3), (16, 0, 6), (16, 1, 3), (16, 1, 6), (32, 0, 6), (32, 1, 6)]
    assert cas.steps.tolist() == [[3, 6], [6, 6]]
    assert torch.equal(cas.answers[0, 1], cas.answers[1, 1]) and not torch.equal(
        cas.answers[0, 0], cas.answers[1, 0]
    )


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


def known(seeds=2, n=400):
    "A comparison whose classifiers are right with probability 0.8 (arm a) and 0.6 (arm b)"
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    right = torch.rand(1, 2, seeds, n, generator=rng) < torch.tensor([0.8, 0.6])[None, :, None, None]
    answers = nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    return CAS(
        ['a', 'b'],
        [1, 2],
        ['steps'],
        torch.ones(1, 2, dtype=torch.int64),
        list(range(seeds)),
        answers,
        labels,
        'accuracy',
        ['0', '1'],
    )


def test_intervals_are_those_of_a_share():
    cas = known(seeds=1)
    mean, low, high = cas.estimate('steps', 'a')
    assert mean == pytest.approx(0.8, abs=0.06)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(mean * (1 - mean) / 400), rel=0.2)
    difference, below, above = cas.estimate('steps', 'b', 'a')
    assert below < -0.2 < above < 0 and difference == pytest.approx(cas.estimate('steps', 'b')[0] - mean)


def test_tables_and_plots_know_all_arms(tmp_path):
    cas = known()
    assert len(str(cas).split('\n')) == 3 and 'less a' in str(cas)
    assert len(cas.plot().get_xticklabels()) == 2
    assert cas.plot_confusion('steps', 'b').images[0].get_array().shape == (2, 2)
    with pytest.raises(ValueError, match='arm must be one of'):
        cas.values('steps', 'c')
    with pytest.raises(ValueError, match='metric must be one of'):
        cas.with_metric('f1')


# Sets that do not fit


def test_sets_that_do_not_fit_are_refused(tmp_path):
    good, train = squares(20), dict(epochs=1, seeds=1)
    bad = {
        'no labels': ImageSet(good.images),
        'labels an image, not 1': ImageSet(good.images, torch.zeros(20, 2)),
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
    with pytest.raises(ValueError, match='counts must be in 2..20, got 30'):
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
        match='synthetic calls its label 0 1: classes are missing from its folders 1, 2, 3, 4, 5, ..., or real_train',
    ):
        _check_sets({'real_train': zero, 'synthetic': one})
    with pytest.raises(ValueError, match='synthetic calls its label 0 3: .* 3, 7, or'):
        _check_sets({'real_train': squares(20), 'synthetic': two})
    with pytest.raises(ValueError, match='synthetic has the classes .*3.*7.*, real_train .*a'):
        _check_sets({'real_train': named, 'synthetic': two})


# Labelled samples


def test_counts():
    assert class_counts(3, 4).tolist() == [3, 3, 3, 3] and class_counts(
        {'b': 2, 0: 1}, 2, ['a', 'b']
    ).tolist() == [1, 2]
    for bad, message in (
        ({5: 1}, 'class 5 is unknown'),
        ({'c': 1}, "class 'c' is unknown"),
        ([1], '1 counts for 2'),
        ([-1, 2], 'integers >= 0, got -1'),
        (0, 'at least one image, got 2 times 0'),
        (2.5, 'integers >= 0, got 2.5'),
        ({0: 2.7}, 'integers >= 0, got 2.7'),
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


class Told(Denoiser):
    "Know exactly that images of a class are Gaussian around its grey level, with deviation 0.05"

    image_shape, num_classes = (1, 2, 2), 4

    def denoise(self, x, sigma, labels):
        mean = (labels / 2 - 0.75)[:, None, None, None]
        return mean + 0.05**2 / (0.05**2 + sigma**2) * (x - mean)


def test_samples_have_their_labels_whatever_the_batch():
    made = labelled_samples(Told(), [3, 0, 5, 1], batch_size=4, steps=8)
    assert made.labels.bincount(minlength=4).tolist() == [3, 0, 5, 1] and len(made) == 9
    assert torch.equal(((made.tensor().mean((1, 2, 3)) + 0.75) * 2).round().long(), made.labels)
    again = labelled_samples(Told(), {2: 5}, batch_size=2, steps=8)
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


# Distances


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
    with pytest.raises(ValueError, match='k must be in 1..3, got 4'):
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
    with pytest.raises(ValueError, match='shape \\(N, D\\)'):
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


def test_a_curve_has_a_tick_for_each_count():
    cas = known()
    cas = CAS(
        ['real', 'synthetic', 'synthetic 30'],
        [10, 500, 30],
        ['steps'],
        torch.ones(1, 3, dtype=torch.int64),
        cas.seeds,
        cas.answers[:, [0, 1, 1]],
        cas.labels,
        'accuracy',
        ['0', '1'],
    )
    ax = cas.plot_counts()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ['30', '500'] and len(
        ax.get_xticks(minor=True)
    ) == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        'synthetic, equal steps',
        'real, equal steps',
    ]
