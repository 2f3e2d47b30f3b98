"""What all explorers share: scripts, styles, and computations of which the last query counts."""

import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import traitlets
from PIL import Image

from difflow.widgets.answers import _AsyncExplorer
from difflow.widgets.base import _script, _style

FOLDER = Path(__file__).parents[2] / 'difflow/widgets/static'
PARTS = 'library', 'strips', 'toolbar'
NAMES = sorted(path.stem for path in FOLDER.glob('*.js') if path.stem not in PARTS)


def test_there_are_scripts():
    assert len(NAMES) >= 5


@pytest.mark.parametrize('name', NAMES)
def test_script_is_one_module(name, run):
    assert _script('strips', name).count('export default') == 1
    node = shutil.which('node')
    if node is None:
        pytest.skip('node is not installed')
    done = run(node, '--input-type=module', '--check', input=_script('strips', name))
    assert done.returncode == 0, done.stderr


def test_styles_follow_the_common_one():
    assert (
        '.df-explorer' in _style()
        and _style('synthetic').startswith(_style())
        and '.df-row' in _style('synthetic').removeprefix(_style())
    )


def test_unknown_script_is_an_error():
    with pytest.raises(FileNotFoundError):
        _script('nothing')


class Number(NamedTuple):
    n: int


class Square(_AsyncExplorer):
    "Count to the square of `n` in ten answers, each after `gate`."

    _esm, _query_type = 'export default {render() {}}', Number
    n = traitlets.Int(2).tag(sync=True)
    square = traitlets.Int(0).tag(sync=True)

    def __init__(self, background=True, is_open=False):
        self.gate, self.inside, self.steps, self.shown = threading.Event(), threading.Event(), [], []
        if is_open or not background:
            self.gate.set()
        super().__init__(background)

    def _compute(self, query):
        for k in range(11):
            self.steps.append((query.n, k))
            self.inside.set()
            assert self.gate.wait(30)
            if query.n == 13:
                raise ArithmeticError('unlucky\nand a long story')
            yield k / 10, query.n**2 * k // 10

    def _show(self, answer):
        self.shown.append((self.progress, answer))
        self.square = answer

    def static(self):
        return Image.new('L', (self.n, self.n))


@pytest.mark.parametrize('background', [False, True])
def test_answers_end_with_the_complete_one(background):
    explorer = Square(background, is_open=True).wait(30)
    assert explorer.square == 4 and explorer.progress == 1 and explorer.error == ''
    assert explorer.shown[0] == (0, 0) and explorer.shown[-1] == (
        1,
        4,
    )  # the first one at once, the last in any case
    assert [k for _, k in explorer.steps] == list(range(11))


def test_a_computation_stops_at_its_next_answer_and_overtaken_queries_do_not_begin():
    explorer = Square()
    assert explorer.inside.wait(30)
    for n in range(3, 30):
        explorer.n = n
    explorer.gate.set()
    assert explorer.wait(30).square == 29**2
    assert [n for n, _ in explorer.steps] == [2] + [29] * 11


def test_one_computation_at_a_time():
    explorer = Square()
    assert explorer.inside.wait(30)
    first = explorer._thread
    explorer.n = 3
    assert first.is_alive() and explorer._thread.is_alive() and len(explorer.steps) == 1
    explorer.gate.set()
    explorer.wait(30)
    assert not first.is_alive()


@pytest.mark.parametrize('background', [False, True])
def test_failures_are_shown_in_one_line_raised_by_wait_and_forgotten(background):
    explorer = Square(background, is_open=True)
    explorer.n = 13
    with pytest.raises(ArithmeticError, match='unlucky'):
        explorer.wait(30)
    assert explorer.error == 'ArithmeticError: unlucky' and explorer.progress < 1
    explorer.n = 5
    assert explorer.wait(30).square == 25 and explorer.error == ''


def test_the_failure_of_an_overtaken_query_is_not_shown():
    explorer = Square()
    assert explorer.inside.wait(30)
    explorer.n = 13
    explorer.n = 4
    explorer.gate.set()
    assert explorer.wait(30).square == 16 and explorer.error == ''


def test_the_same_query_is_not_computed_again():
    explorer = Square(background=False)
    explorer._restart()
    assert len(explorer.steps) == 11


def test_wait_gives_up_and_close_stops():
    explorer = Square()
    assert explorer.inside.wait(30)
    with pytest.raises(TimeoutError, match='not done after 0.01 s'):
        explorer.wait(0.01)
    explorer.close()
    explorer.gate.set()
    explorer._thread.join(30)
    assert not explorer._thread.is_alive() and explorer.steps == [(2, 0)]


def test_small_models_are_computed_on_one_core_and_the_cores_come_back():
    class Threads(Square):
        def _compute(self, query):
            yield 1.0, torch.get_num_threads()

        def _models(self):
            return [torch.nn.Linear(2, 2)]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        explorer = Threads()
        explorer.wait(30)
        explorer._thread.join(30)
        assert explorer.square == 1 and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_models_of_an_explorer_are_the_networks_that_it_has():
    explorer = Square(background=False)
    explorer.network = torch.nn.Linear(2, 2)
    assert explorer._models() == [explorer.network]
