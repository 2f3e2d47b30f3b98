"""What the tests share: options, the repository's root, and a small model saved to disk."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests marked slow, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: runs only with --slow')
    config.addinivalue_line('markers', 'cuda: runs only where torch finds a GPU')


def pytest_collection_modifyitems(config, items):
    import torch
    for item in items:
        if 'slow' in item.keywords and not config.getoption('--slow'):
            item.add_marker(pytest.mark.skip(reason='slow: runs with --slow'))
        if 'cuda' in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='cuda: torch finds no GPU'))


@pytest.fixture(scope='session')
def root() -> Path:
    "The repository's root folder"
    return ROOT


@pytest.fixture(scope='session')
def run():
    "Run a program in a process of its own and return it, finished, with its text in `.stdout` and `.stderr`"
    def run(*command, timeout=300, env=None, **options):
        command = [str(part) for part in command]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                              env=os.environ | (env or {}), **options)
    return run


@pytest.fixture(scope='session')
def python(run):
    "Run a line of Python in a process of its own; an error fails the test and is shown"
    def python(code, *arguments, **options):
        done = run(sys.executable, '-c', code, *arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return python
