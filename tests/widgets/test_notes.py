"""Verdicts: thresholds, and what is refused."""

import pytest
from counting import X0

from difflow import SSCD
from difflow.widgets import verdicts
from difflow.widgets.notes import _verdict

CASES = {
    (0.6, 0.6): 'reproduced, memorised',
    (0.6, 0.4): 'reproduced',
    (0.5, 0.6): 'memorised',
    (0.5, 0.5): 'new',
    (None, 0.6): 'memorised',
}


def test_verdicts_follow_from_thresholds():
    assert {pair: _verdict(*pair, 0.5) for pair in CASES} == CASES
    with pytest.raises(ValueError, match='threshold must be in -1..1, got -2'):
        verdicts('mnist5k', threshold=-2)
    with pytest.raises(ValueError, match='threshold must be in -1..1, got None'):
        verdicts(SSCD('small', 8))
    with pytest.raises(ValueError, match='sides of 28..32'):
        verdicts('mnist5k', X0[..., :14])
