"""Tables made row by row: what another process may do in the meantime."""

import json
import shutil

import numpy as np
import pytest

from difflow.files import save_npz
from difflow.runs import fill_table


def rows(names):
    return [{'x': np.array([int(name)])} for name in names]


def joined(path, made_of, rows):
    run = json.dumps(made_of)
    save_npz(path, {'x': np.concatenate([row['x'] for row in rows]), 'run': run})


def test_rows_that_another_process_has_joined_and_removed(tmp_path):
    path, made_of, names = tmp_path / 't.npz', {'kind': 'test'}, ['0', '1', '2']

    def late(found):
        joined(path, made_of, rows(names))  # another process is quicker
        shutil.rmtree(tmp_path / 't.npz.parts')
        joined(path, made_of, found)  # and this one finds no rows

    report = fill_table(path, made_of, names, rows, late)
    assert not report.tells and report.complete
    assert np.load(path)['x'].tolist() == [0, 1, 2] and not (tmp_path / 't.npz.parts').exists()


def test_an_error_of_joining_is_none_of_another_process(tmp_path):
    def fails(found):
        list(found)
        raise ValueError('the disk is full')

    for _ in range(2):
        with pytest.raises(ValueError, match='the disk is full'):
            fill_table(tmp_path / 't.npz', {'kind': 'test'}, ['0', '1'], rows, fails)
    report = fill_table(
        tmp_path / 't.npz',
        {'kind': 'test'},
        ['0', '1'],
        rows,
        lambda found: joined(tmp_path / 't.npz', {'kind': 'test'}, found),
    )
    assert report.tells and report.made == 0 and np.load(tmp_path / 't.npz')['x'].tolist() == [0, 1]
