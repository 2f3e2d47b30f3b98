"""Every line in the tables of the studies runs, word for word but for places and sizes."""

import importlib
import shlex

import pytest
from option_changes import all_commands, call
from published_runs import changed_words

STUDIES = 'forward_backward', 'generalizability', 'representations', 'synthetic_data'
RUNS_OF = (
    'forward_backward_runs',
    'generation_runs',
    'training_runs',
    'low_rank_runs',
    'encoder_runs',
    'mixer_runs',
    'information_runs',
    'sampling_runs',
)
LINES = [
    line for study in STUDIES for line in importlib.import_module(f'difflow.cli.published_{study}')._LINES
]
RUNS = {}
for part in RUNS_OF:
    RUNS |= importlib.import_module(part).RUNS


def test_every_line_is_run_and_every_run_is_of_a_line():
    names = [line.name for line in LINES]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(RUNS)


@pytest.mark.parametrize('line', LINES, ids=lambda line: line.name)
def test_published_line(line, tmp_path, monkeypatch):
    run = RUNS[line.name]
    run.prepare(tmp_path)
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    run.smaller(monkeypatch)
    words = shlex.join([*line.command.split(), *changed_words(line.words, run.change)])
    code, printed = call(words, tmp_path)
    if run.refused is None:
        assert code == 0, printed
        run.check(tmp_path, printed)
    else:
        assert code == 2 and run.refused in printed, printed


@pytest.mark.parametrize('line', LINES, ids=lambda line: line.name)
def test_page_names_a_command(line):
    assert line.command.split(' --')[0] in all_commands() and line.better.endswith('.')
    assert line.differs == '' or line.differs.endswith('.')
