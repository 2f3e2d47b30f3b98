"""Belief propagation and draws from the posterior against enumeration."""

import math

import pytest
import torch
from enumeration import GRAMMARS, bayes, chi_square_ok, count, float64, name_of, noisy

from difflow import RandomHierarchy, normal


@pytest.mark.parametrize('options', GRAMMARS, ids=name_of)
@pytest.mark.parametrize('labelled', [False, True])
def test_beliefs_of_every_level_equal_enumeration(options, labelled):
    h = RandomHierarchy(**options)
    for sigma in map(float64, (0.01, 0.2, 0.6, 1.5, 30.0)):
        x = noisy(h, 5, sigma)
        labels = torch.arange(5) % h.n_classes if labelled else None
        weights, strings, _ = bayes(h, x, sigma, labels)
        found = h.beliefs(x, sigma, labels)
        for l, nodes in enumerate(h.levels(strings)):
            hot = torch.nn.functional.one_hot(nodes, h.v if l < h.L else h.n_classes).double()
            torch.testing.assert_close(
                found.marginals[l], torch.einsum('bk,knv->bnv', weights, hot), atol=1e-10, rtol=0
            )


def test_inside_and_outside_are_the_two_halves_of_the_posterior():
    h = RandomHierarchy(v=4, m=2, s=2, L=3)
    x = noisy(h, 2, 0.8)
    found = h.beliefs(x, 0.8)
    for p, a, b in zip(found.marginals, found.inside, found.outside):
        torch.testing.assert_close(p, a * b / (a * b).sum(-1, keepdim=True))
    changed = x.clone()
    changed[..., :2] = normal(
        (2, 4, 1, 2), seeds=9
    )  # of the first node of level 1: what the rest says of it stays
    torch.testing.assert_close(h.beliefs(changed, 0.8).outside[1][:, 0], found.outside[1][:, 0])


def test_log_density_is_that_of_the_mixture():
    h = RandomHierarchy(v=3, m=2, s=2, L=2)
    x, hot = noisy(h, 6, 0.6), h.encode(h.enumerate()[0]).double()
    logs = torch.distributions.Normal(hot, 0.6).log_prob(x[:, None]).flatten(2).sum(2)
    torch.testing.assert_close(
        h.log_density(x, float64(0.6)), logs.logsumexp(1) - math.log(24), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize('label', [None, 1])
def test_posterior_samples_follow_bayes(label):
    h = RandomHierarchy(v=3, m=3, s=2, L=2, n_classes=2)
    sigma, x = float64(0.9), noisy(h, 1, 0.9, seed=5)
    labels = None if label is None else torch.tensor([label])
    weights, strings, _ = bayes(h, x, sigma, labels)
    many = None if label is None else labels.expand(5000)
    drawn = h.posterior_sample(x.expand(5000, -1, -1, -1), sigma, seeds=1, labels=many)
    counts = count(strings, drawn)
    assert counts.sum() == 5000 and chi_square_ok(counts, weights[0] * 5000)
    wrong = weights[0].roll(1)  # the test can fail
    assert not chi_square_ok(counts, wrong * 5000)


def test_posterior_samples_depend_on_their_own_seed_alone():
    h = RandomHierarchy(v=4, m=2, s=2, L=3)
    x = noisy(h, 4, 1.5)
    all_four = h.posterior_sample(x, 1.5, seeds=[5, 6, 7, 8])
    assert torch.equal(h.posterior_sample(x[2:3], 1.5, seeds=[7]), all_four[2:3])
    assert torch.equal(h.posterior_sample(x[:2], 1.5, seeds=3), h.posterior_sample(x, 1.5, seeds=3)[:2])
