"""The scripts of all explorers: each is one module that a JavaScript engine accepts, with the styles that it uses."""

import shutil
from pathlib import Path

import pytest

from difflow.widgets.base import _script, _style

FOLDER = Path(__file__).parents[2] / 'difflow/widgets/static'
NAMES = sorted(path.stem for path in FOLDER.glob('*.js') if path.stem != 'explorer')


def test_there_are_scripts():
    assert len(NAMES) >= 4


@pytest.mark.parametrize('name', NAMES)
def test_script_is_one_module(name, run):
    assert _script(name).count('export default') == 1
    node = shutil.which('node')
    if node is None:
        pytest.skip('node is not installed')
    done = run(node, '--input-type=module', '--check', input=_script(name))
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
