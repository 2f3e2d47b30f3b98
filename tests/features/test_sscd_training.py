"""Training a descriptor, and judging it"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from difflow import SSCD, load_images, sscd_features
from difflow.features import micro_average_precision, train_sscd
from difflow.features.sscd_training import _entropy_loss, _info_nce


@pytest.fixture(scope='module')
def small():
    torch.manual_seed(0)
    return SSCD('small', 16, widths=(8, 8, 16)).eval()


@pytest.fixture(scope='module')
def digits():
    return load_images('mnist5k', split='test', max_images=100)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10**6))
def test_micro_average_precision_is_scikit_learns(queries, references, seed):
    from sklearn.metrics import average_precision_score

    g = torch.Generator().manual_seed(seed)
    scores, match = (
        torch.randn(queries, references, generator=g),
        torch.rand(queries, references, generator=g) < 0.3,
    )
    match[0, 0] = True
    wanted = average_precision_score(match.flatten().numpy(), scores.flatten().numpy())
    assert micro_average_precision(scores, match) == pytest.approx(wanted, abs=1e-9)
    ties = scores.round()  # equal scores: no better than any order of them
    orders = [
        average_precision_score(
            match.flatten().numpy(), (ties + 1e-3 * torch.rand(ties.shape, generator=g)).flatten().numpy()
        )
        for _ in range(5)
    ]
    assert micro_average_precision(ties, match) <= min(orders) + 1e-9


def test_losses_take_several_copies_and_rows_without_any():
    z = F.normalize(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    match = torch.zeros(5, 5, dtype=torch.bool)
    match[:3, :3] = True  # three views of one image; two views are alone
    s, wanted = z @ z.T, 0
    for i in range(3):
        others = sum(torch.exp(s[i, k] / 0.1) for k in (3, 4)) + 1e-6
        wanted += (
            sum(
                -torch.log(torch.exp(s[i, j] / 0.1) / (torch.exp(s[i, j] / 0.1) + others))
                for j in range(3)
                if j != i
            )
            / 2
            / 3
        )
    torch.testing.assert_close(_info_nce(s, match, 0.1), wanted)
    assert _entropy_loss(torch.ones(4, 4), torch.eye(4, dtype=torch.bool)).isfinite()  # all in one place


def test_training_repeats_itself_and_leaves_its_model_alone(digits):
    torch.manual_seed(0)
    model = SSCD('small', 8, widths=(8, 8, 8))
    before = model.sha256
    one, two = (
        train_sscd(model, digits, steps=4, batch_size=16, mixup=0.2, progress=False) for _ in range(2)
    )
    assert model.sha256 == before and one.model.sha256 == two.model.sha256 != before
    assert torch.equal(one.losses, two.losses) and not one.model.training
    other = train_sscd(model, digits, steps=4, batch_size=16, seed=1, progress=False)
    assert other.model.sha256 != one.model.sha256


def test_colour_descriptors_are_trained_too():
    torch.manual_seed(0)
    model = SSCD('small', 8, channels=3, widths=(8, 8, 8))
    colours = load_images('colored_mnist', max_images=32)
    done = train_sscd(model, colours, steps=2, batch_size=16, progress=False)
    assert done.losses.isfinite().all() and sscd_features(colours, done.model).shape == (32, 8)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(steps=0), 'steps must be an integer in 1..'),
        (dict(batch_size=1), 'batch_size must be an integer in 2..'),
        (dict(mixup=2), 'mixup must be a number in 0..1, got 2'),
        (dict(batch_size=101), 'batch_size must be an integer in 2..100, got 101'),
    ],
)
def test_bad_settings_are_refused(small, digits, options, message):
    with pytest.raises(ValueError, match=message):
        train_sscd(small, digits, progress=False, **options)
