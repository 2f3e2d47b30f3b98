"""Scores against scikit-learn, intervals, tables and plots"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from difflow.synthetic_data import CAS
from difflow.synthetic_data.cas_scores import _METRICS, _auroc, _score


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
