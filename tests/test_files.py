"""Files: what is left of a write that fails, is killed, or meets another; and digests of unusual tensors."""

import os
import signal
import threading

import numpy as np
import pytest
import torch

from difflow.files import atomic, file_hash, package_file, tensors_sha256


@pytest.mark.parametrize(
    ('name', 'ending'),
    [('a.npz', '.npz'), ('v1.5.png', '.png'), ('plain', '.partial'), ('.hidden', '.partial')],
)
def test_the_temporary_name_is_hidden_and_keeps_the_ending(tmp_path, name, ending):
    with atomic(tmp_path / 'new' / name) as partial:
        assert partial.parent == tmp_path / 'new' and partial.name[0] == '.'
        assert partial.suffix == ending and not partial.exists()
        partial.write_bytes(b'1')
    assert [f.name for f in (tmp_path / 'new').iterdir()] == [name]


def test_another_folder(tmp_path):
    (tmp_path / 'work').mkdir()
    with atomic(tmp_path / 'a' / 'b.txt', tmp_path / 'work') as partial:
        assert partial.parent == tmp_path / 'work'
        partial.write_text('1')
    assert (tmp_path / 'a' / 'b.txt').read_text() == '1' and not list((tmp_path / 'work').iterdir())


def test_a_missing_work_folder_is_an_error_that_leaves_nothing(tmp_path):
    "What a run that shares its folder relies on: it makes the folder again and repeats"
    with pytest.raises(FileNotFoundError):
        with atomic(tmp_path / 'a.txt', tmp_path / 'nowhere') as partial:
            partial.write_text('1')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt, GeneratorExit])
def test_errors_leave_what_was_there(tmp_path, error):
    (tmp_path / 'a').write_text('before')
    with pytest.raises(error):
        with atomic(tmp_path / 'a') as partial:
            partial.write_text('half')
            raise error
    assert [f.read_text() for f in tmp_path.iterdir()] == ['before']


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic(tmp_path / 'a'):
            pass


def test_a_killed_process_leaves_what_was_there(tmp_path):
    (tmp_path / 'a').write_text('before')
    child = os.fork()
    if child == 0:
        try:
            with atomic(tmp_path / 'a') as partial:
                partial.write_text('half')
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / 'a').read_text() == 'before'
    assert [f.name for f in tmp_path.iterdir() if f.name[0] != '.'] == ['a']


def test_two_threads_write_one_file(tmp_path):
    both = threading.Barrier(2)

    def write(letter):
        with atomic(tmp_path / 'a') as partial:
            both.wait()
            partial.write_text(letter * 1000)
            both.wait()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in 'xy']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / 'a').read_text() in ('x' * 1000, 'y' * 1000) and len(list(tmp_path.iterdir())) == 1


def test_digests_of_unusual_tensors():
    plain = {'a': torch.arange(6.0).reshape(2, 3)}
    assert tensors_sha256(
        {'a': torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3)}
    ) == tensors_sha256(plain)
    assert tensors_sha256({'a': plain['a'].T.contiguous().T}) == tensors_sha256(plain)
    kinds = [torch.tensor(1), torch.zeros(0), torch.zeros(2, dtype=torch.bfloat16), torch.tensor([True])]
    assert len({tensors_sha256({'a': t}) for t in kinds}) == 4 and len(tensors_sha256({})) == 64


def test_long_files_are_read_in_blocks(tmp_path):
    import hashlib

    data = np.random.default_rng(0).bytes((1 << 22) + 7)
    (tmp_path / 'long').write_bytes(data)
    assert file_hash(tmp_path / 'long') == hashlib.sha256(data).hexdigest()


def test_shipped_files_lie_beside_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert package_file('embedded', 'mnist5k.npz').is_file() and package_file().is_absolute()
