"""Grammars small enough to enumerate, and Bayes' rule over all their strings, for several test files."""

import math

import torch

from difflow import normal

GRAMMARS = [
    dict(v=3, m=2, s=2, L=2),
    dict(v=4, m=2, s=2, L=3, n_classes=2),
    dict(v=2, m=2, s=2, L=3),
    dict(v=3, m=3, s=3, L=2, n_classes=5),
    dict(v=5, m=4, s=3, L=1, seed=4),
    dict(v=4, m=1, s=2, L=4),
]


name_of = lambda options: ','.join(f'{k}{v}' for k, v in options.items())


def float64(number):
    return torch.tensor(number, dtype=torch.float64)


def noisy(h, count, sigma, seed=0):
    "Return noised strings, (count, v, 1, s**L) float64"
    x0 = h.encode(h.sample(count, seed)[0]).double()
    return x0 + sigma * normal(x0.shape, seeds=seed + 1).double()


def bayes(h, x, sigma, labels=None):
    "Return the posterior of each string of the grammar, (B, count), and the strings and their classes"
    strings, classes = h.enumerate()
    hot = h.encode(strings).double().flatten(1)
    logits = x.double().flatten(1) @ hot.T / sigma.reshape(-1, 1) ** 2
    if labels is not None:
        logits = torch.where(classes == labels[:, None], logits, -math.inf)
    return logits.softmax(1), strings, classes


def chi_square_ok(counts, expected):
    "Return whether Pearson's statistic of cells with >= 5 expected, the rest pooled, is within 4 deviations"
    big = expected >= 5
    counts, expected = (torch.cat([a[big], a[~big].sum()[None]]) for a in (counts.double(), expected))
    statistic = ((counts - expected) ** 2 / expected.clamp(min=1e-9))[expected > 1].sum().item()
    freedom = int((expected > 1).sum()) - 1
    return statistic < freedom + 4 * math.sqrt(2 * freedom)


def count(strings, drawn):
    return (drawn[:, None] == strings).all(2).sum(0)
