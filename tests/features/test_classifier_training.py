"""The training of classifiers repeats itself"""

import torch

from difflow import load_images
from difflow.features import SmallClassifier, random_warp, train_classifier


def test_training_is_repeatable_and_leaves_its_model_alone():
    digits, start = (
        load_images('digits', split='train', max_images=64),
        SmallClassifier(image_shape=(1, 8, 8), width=8),
    )
    before = {k: v.clone() for k, v in start.state_dict().items()}
    one, two = (train_classifier(start, digits, steps=4, batch_size=16) for _ in range(2))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values()):
        assert torch.equal(a, b), name
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in one.state_dict().items())
    shifted = random_warp(digits.tensor(), 0, 0)
    assert not torch.equal(shifted, random_warp(digits.tensor(), 0, 1)) and shifted.shape == (64, 1, 8, 8)
