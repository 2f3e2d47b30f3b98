"""Grammars against a parser by dictionary and enumeration."""

import pytest
import torch
from enumeration import GRAMMARS, chi_square_ok, count, float64, name_of

from difflow import RandomHierarchy
from difflow.exact.grammars import _BAD, _UNKNOWN


@pytest.mark.parametrize(
    'options', [*GRAMMARS, dict(v=32, m=8, s=2, L=3), dict(v=200, m=7, s=4, L=2)], ids=name_of
)
def test_no_tuple_spells_two_symbols(options):
    h = RandomHierarchy(**options)
    assert len(h.rules) == h.L and h.rules[-1].shape == (h.n_classes, h.m, h.s)
    for rules in h.rules:
        tuples = rules.flatten(0, 1)
        assert len(tuples.unique(dim=0)) == len(tuples) and 0 <= tuples.min() <= tuples.max() < h.v
    same, other = RandomHierarchy(**options), RandomHierarchy(**(options | {'seed': 99}))
    assert all(map(torch.equal, h.rules, same.rules)) and not all(map(torch.equal, h.rules, other.rules))


def test_levels_equal_a_parser_by_dictionary():
    h = RandomHierarchy(v=4, m=2, s=2, L=3, n_classes=3)
    strings = torch.randint(4, (300, 8), generator=torch.Generator().manual_seed(1))
    strings = torch.cat([strings, h.sample(50)[0]])
    strings[-20:, 3] = (strings[-20:, 3] + 1) % 4  # nearly right
    for i, string in enumerate(strings.tolist()):
        for l, rules in enumerate(h.rules, 1):
            of = {tuple(pair): y for y, spellings in enumerate(rules.tolist()) for pair in spellings}
            pairs = list(zip(string[::2], string[1::2]))
            string = [_UNKNOWN if min(pair) < 0 else of.get(pair, _BAD) for pair in pairs]
            assert h.levels(strings[i : i + 1])[l][0].tolist() == string
        assert h.grammatical(strings[i : i + 1]).item() == (string[0] >= 0)


def test_enumeration_lists_each_string_once():
    for options in GRAMMARS:
        h = RandomHierarchy(**options)
        strings, classes = h.enumerate()
        assert (
            len(strings) == len(strings.unique(dim=0)) == h.count
            and (classes.bincount() == h.count // h.n_classes).all()
        )
        assert torch.equal(h.levels(strings)[-1][:, 0], classes)
        torch.testing.assert_close(h.log_likelihood(strings).exp().sum(), float64(1.0))


def test_samples_are_uniform_over_the_grammar():
    h = RandomHierarchy(v=3, m=2, s=2, L=2)
    drawn, classes = h.sample(6000, seed=2)
    counts = count(h.enumerate()[0], drawn)
    assert counts.sum() == 6000 and chi_square_ok(counts, torch.full((24,), 250.0, dtype=torch.float64))
    assert torch.equal(h.levels(drawn)[-1][:, 0], classes)
    assert torch.equal(h.sample(100, seed=2)[0], drawn[:100])  # string i is a function of seed and i
    assert not torch.equal(h.sample(100, seed=3)[0], drawn[:100])


# Bad input


TINY = dict(v=3, m=2, s=2, L=2)


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(v=1), 'v must be an integer >= 2, got 1'),
        (dict(m=0), 'm must be an integer >= 1, got 0'),
        (dict(m=4), r'm must be in 1..v\*\*\(s-1\) = 3, got 4'),
        (dict(s=1), 's must be an integer >= 2, got 1'),
        (dict(L=0), 'L must be an integer >= 1, got 0'),
        (dict(L=2.5), 'L must be an integer >= 1, got 2.5'),
        (dict(n_classes=0), 'n_classes must be an integer >= 1'),
        (dict(n_classes=5), r'n_classes \* m must be at most v\*\*s = 9, got 10'),
        (dict(L=30), r's\*\*L must be at most 1048576 leaves, got 2\*\*30'),
        (dict(v=10**10, s=3), r'v\*\*s must be below 2\*\*63'),
    ],
)
def test_bad_grammars(change, message):
    with pytest.raises(ValueError, match=message):
        RandomHierarchy(**(TINY | change))
