"""The number of this process and of all, as given or from the environment."""

import pytest

from difflow.runs import rank_and_world


def test_ranks_come_from_the_environment(monkeypatch):
    monkeypatch.delenv('RANK', raising=False), monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv('RANK', '2'), monkeypatch.setenv('WORLD_SIZE', '3')
    assert rank_and_world() == (2, 3) and rank_and_world(1, 2) == (1, 2)
    with pytest.raises(ValueError, match=r'0\.\.2 of 3 ranks, got 5'):
        rank_and_world(5)
