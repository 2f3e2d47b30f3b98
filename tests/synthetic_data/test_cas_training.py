"""Classifiers of a comparison: networks, recipe and training"""

import pytest
import torch
from grey_squares import squares
from torch import nn

from difflow.synthetic_data import ClassifierRecipe
from difflow.synthetic_data.cas_training import _fit, _make_classifier, _shift_flip

PLAIN = ClassifierRecipe(augmentation='none', batch_size=16)


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
    recipe, steps = ClassifierRecipe(), 100
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
        (dict(lr=0), 'lr must be a number in'),
        (dict(batch_size=1), 'batch_size must be an integer in 2..'),
        (dict(momentum=2), 'momentum must be a number in 0..1, got 2'),
        (dict(augmentation='crop'), "got 'crop'"),
    ],
)
def test_bad_recipes(options, message):
    with pytest.raises(ValueError, match=message):
        ClassifierRecipe(**options)
