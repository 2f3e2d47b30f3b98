"""The epsilon-process against explicit averages, closed forms and belief propagation."""

import itertools
import math

import pytest
import torch

from difflow import RandomHierarchy
from difflow.exact import EpsilonProcess


def test_the_map_is_an_average_over_tuples():
    "Sum the beliefs in all tuples explicitly; the other spellings are uniform among the false ones"
    v, m, s, p = 5, 3, 3, 0.4
    belief = [p] + [(1 - p) / (v - 1)] * (v - 1)
    products = [math.prod(belief[a] for a in pair) for pair in itertools.product(range(v), repeat=s)]
    true, others = products[0], sum(products[1:]) / (len(products) - 1)
    up = (true + (m - 1) * others) / (true + (m * v - 1) * others)
    assert math.isclose(EpsilonProcess(v, m, s).F(p), up, rel_tol=1e-12)


@pytest.mark.parametrize(
    'v,m,s', [(16, 4, 2), (32, 8, 2), (10, 5, 3), (6, 4, 3), (4, 6, 4), (5, 1, 2), (6, 4, 2), (2, 2, 3)]
)
def test_fixed_points_and_where_the_map_leads(v, m, s):
    theory = EpsilonProcess(v, m, s)
    points = theory.fixed_points()
    assert all(math.isclose(theory.F(p), p, abs_tol=1e-9) for p in points)
    if theory.e_star < 1:
        below = theory.upward((1 - theory.p_star + 1e-3) / (1 - 1 / v), 400)
        assert abs(below[-1] - 1 / v) < 1e-3
    if theory.p_star < 1:
        above = theory.upward(max((1 - theory.p_star - 1e-3) / (1 - 1 / v), 0), 400)
        assert above[-1] > 0.999
    grid = torch.linspace(1 / v, 1, 20001, dtype=torch.float64)[1:-1]
    signs = (theory.F(grid) - grid)[(theory.F(grid) - grid).abs() > 1e-12].sign()
    assert int((signs[1:] != signs[:-1]).sum()) == len(points) - 2


def test_thresholds_for_pairs():
    for v, m in ((16, 4), (32, 8), (10, 3), (24, 7)):
        theory = EpsilonProcess(v, m, 2)
        assert math.isclose(theory.p_star, (m - 1) / (v - m), rel_tol=1e-9)
        assert math.isclose(theory.e_star, (1 - (m - 1) / (v - m)) / (1 - 1 / v), rel_tol=1e-9)
    assert EpsilonProcess(6, 4, 2).p_star == 1 and EpsilonProcess(6, 4, 2).e_star == 0  # lost for any epsilon
    assert EpsilonProcess(5, 1, 2).e_star == 1  # without synonyms never lost
    theory = EpsilonProcess(16, 4, 2)
    assert abs(theory.upward(0.8, 7)[-1] - 0.25) < 1e-9  # epsilon* stays at p*
    for epsilon, end in (
        (0.75, 0.70),
        (0.9, 0.065),
    ):  # of an independent run on one grammar, which departs by 0.03
        assert abs(theory.upward(epsilon, 7)[-1] - end) < 0.03


def test_belief_propagation_follows_the_theory():
    h = RandomHierarchy(v=16, m=4, s=2, L=7, seed=2)
    strings = h.sample(32, seed=1)[0]
    truth = lambda beliefs: [
        b.gather(2, y[..., None]).mean().item() for b, y in zip(beliefs, h.levels(strings))
    ]
    for epsilon, upward, both in ((0.3, 0.03, 0.09), (0.8, 0.03, 0.06), (0.9, 0.03, 0.06)):
        found = h.epsilon_beliefs(strings, epsilon)
        theory = h.epsilon_process
        pairs = (
            (found.inside, theory.upward(epsilon, 7), upward),
            (found.marginals, theory.marginal(epsilon, 7), both),
        )
        for beliefs, expected, tolerance in pairs:
            assert max(abs(a - b) for a, b in zip(truth(beliefs), expected)) < tolerance, (
                epsilon,
                truth(beliefs),
                expected,
            )
