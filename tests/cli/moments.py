"""A command that is killed before each of its moments: a file renamed, a file or a folder removed.

This process imports everything, works with one thread, and forks: a child costs what its line does."""

import io
import os
import shlex
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from difflow.cli import main


def files_of(folder):
    "Return the bytes of every file under `folder`"
    return {f'{p.relative_to(folder)}': p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def count_moments(last):
    "Kill this process before its moment number `last`"
    left = [last]

    def watched(call):
        def go(path, *arguments, **options):
            if call is not unlink or '.partial' not in os.fspath(path):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(path, *arguments, **options)

        return go

    unlink = os.unlink
    for name in ('replace', 'unlink', 'rmdir'):
        setattr(os, name, watched(getattr(os, name)))


def here(line, folder):
    "Run a line of `difflow` in this process, in `folder`, and return its exit code"
    os.chdir(folder)
    try:
        with redirect_stdout(io.StringIO()):
            main(shlex.split(line))
    except SystemExit as stop:
        return stop.code or 0


def start(line, folder, last=None, rank=0, world=1):
    "Run a line of `difflow` in a child, in `folder`, and return its number"
    child = os.fork()
    if child:
        return child
    os.environ.update(RANK=f'{rank}', WORLD_SIZE=f'{world}')
    if last is not None:
        count_moments(last)
    os._exit(here(line, folder))


def end(*children):
    "Wait for children and return their exit codes, -9 of those that were killed"
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def check_moments(line, folder, step=1):
    "Check that `line` leaves the same files killed before every `step`-th moment, and made by two processes"
    once = folder / 'once'
    once.mkdir()
    assert here(line, once) == 0
    whole, moments = files_of(once), 0
    for last in range(0, 1000, step):
        there = folder / f'killed{last}'
        there.mkdir()
        killed = end(start(line, there, last)) == [-signal.SIGKILL]
        if killed:
            assert end(start(line, there)) == [0]
        assert files_of(there) == whole, f'{last}: {files_of(there).keys() ^ whole.keys()}'
        shutil.rmtree(there)
        if not killed:
            break
        moments += 1
    for last in (None, 0):
        both = folder / f'both{last}'
        both.mkdir()
        codes = end(start(line, both, None, 0, 2), start(line, both, last, 1, 2))
        if last is not None:
            assert codes == [0, -signal.SIGKILL], codes
            codes = end(start(line, both, None, 1, 2), start(line, both, None, 0, 2))
        assert codes == [0, 0] and files_of(both) == whole, files_of(both).keys() ^ whole.keys()
    print(moments, 'moments')


if __name__ == '__main__':
    torch.set_num_threads(1)
    check_moments(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
