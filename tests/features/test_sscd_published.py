"""The published layouts of SSCD, and hostile files"""

import pickle
import subprocess
import time
import warnings
import zipfile

import pytest
import torch
from classy_network import Classy
from torch import nn

from difflow import SSCD
from difflow.features import load_descriptor
from difflow.features.sscd_published import _architecture_of, _is_torchscript, _read_torchscript


def test_resnext_is_recognised_and_fits():
    "Names and shapes alone, without numbers"
    with torch.device('meta'):
        large, ours = Classy((3, 4, 23, 3), 32, 4, 1024), SSCD('resnext101_32x4d', 1024)
    config, tensors = _architecture_of(large.state_dict())
    assert config == dict(backbone='resnext101_32x4d', dims=1024)
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in ours.state_dict().items()}


def archive(path, data, root='model', **files):
    "Write a zip as TorchScript does around the pickle `data`"
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in {'data.pkl': data, 'constants.pkl': b'\x80\x02).', **files}.items():
            z.writestr(f'{root}/{name}', content)
    return path


class Call:
    "Pickle to a call of `function`"

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize(
    'function, arguments, name',
    [
        (__import__('os').system, ('touch {}',), 'posix.system'),
        (eval, ("open('{}', 'w')",), '__builtin__.eval'),
        (subprocess.Popen, (['touch', '{}'],), 'commands.Popen'),
        (torch.load, ('{}',), 'torch.serialization.load'),
        (getattr, ('text', 'upper'), '__builtin__.getattr'),
    ],
)
def test_hostile_programs_run_nothing(tmp_path, function, arguments, name):
    proof = tmp_path / 'it-ran'
    fill = lambda a: (
        a.format(proof) if isinstance(a, str) else [fill(b) for b in a] if isinstance(a, list) else a
    )
    data = pickle.dumps({'weight': Call(function, *map(fill, arguments))}, 2)
    file = archive(tmp_path / 'model.pt', data)
    assert _is_torchscript(file)
    for read in (_read_torchscript, load_descriptor):
        with pytest.raises(ValueError, match='nothing in it was run') as error:
            read(file)
        assert name in str(error.value) and not proof.exists()


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\x80\x02.',
        b'\x80\x02}q\x00h\x00.',
        b'\x80\x02K\x01.',
        pickle.dumps('text', 2),
        b'\x80\x02c__torch__.M\nM\nq\x00)\x81}q\x01X\x01\x00\x00\x00aq\x02h\x00sb.',
    ],
)
def test_damaged_programs_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match='model.pt'):
        _read_torchscript(archive(tmp_path / 'model.pt', data))


def test_a_module_that_holds_itself_is_refused(tmp_path):
    "An object whose attribute is the object: BUILD it with itself"
    data = b'\x80\x02c__torch__.M\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.'
    with pytest.raises(ValueError, match='endless'):
        _read_torchscript(archive(tmp_path / 'model.pt', data))


def test_shapes_that_leave_their_numbers_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(nn.Linear(3, 2)).save(str(tmp_path / 'good.pt'))
    with zipfile.ZipFile(tmp_path / 'good.pt') as z:
        files = {n.split('/', 1)[1]: z.read(n) for n in z.namelist()}
    assert _read_torchscript(tmp_path / 'good.pt')['weight'].shape == (2, 3)
    short = dict(files) | {'data/0': files['data/0'][:8]}
    data = short.pop('data.pkl')
    short.pop('constants.pkl')
    with pytest.raises(ValueError, match='cut short'):
        _read_torchscript(archive(tmp_path / 'short.pt', data, **short))


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_at_once(tmp_path):
    bomb = tmp_path / 'bomb.pt'
    with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('model/constants.pkl', b'\x80\x02).')
        z.writestr('model/data.pkl', b'\x80\x02]' + b']a' * 5_000_000 + b'.')
    start = time.process_time()
    with pytest.raises(ValueError, match='data.pkl is compressed'):
        _read_torchscript(bomb)
    assert time.process_time() - start < 1
    assert bomb.stat().st_size < 50_000


def test_limits_of_programs(tmp_path):
    many = b'\x80\x02]' + b']a' * 1_100_000 + b'.'
    with pytest.raises(ValueError, match='more than 2,000,000 instructions'):
        _read_torchscript(archive(tmp_path / 'a.pt', many))
    # a record whose two attributes are one record, whose two attributes are one record, ...: 2**25 paths
    nested = b'\x80\x02c__torch__.M\nM\nq\x00)\x81q\x01'
    for i in range(1, 26):
        pair = b'}(X\x01\x00\x00\x00ah' + bytes([i]) + b'X\x01\x00\x00\x00bh' + bytes([i]) + b'u'
        nested += b'h\x00)\x81q' + bytes([i + 1]) + pair + b'b'
    with pytest.raises(ValueError, match='endless'):
        _read_torchscript(archive(tmp_path / 'b.pt', nested + b'.'))
    # a tensor of 4,000,000 numbers that are one number, by a stride of 0
    storage = (
        b'ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n'
        b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ'
    )
    tensor = storage + b'K\x00(J\x00\x09\x3d\x00t(K\x00t\x89ccollections\nOrderedDict\n)RtR'
    data = b'\x80\x02c__torch__.M\nM\n)\x81}X\x01\x00\x00\x00w' + tensor + b'sb.'
    file = archive(tmp_path / 'c.pt', data, **{'data/0': b'\0' * 4})
    with pytest.raises(ValueError, match='a tensor is larger than its numbers'):
        _read_torchscript(file)
