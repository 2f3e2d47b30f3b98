"""The unpickler: weapons, bombs and broken tensors; nothing of them runs."""

import os
import pickle
import struct
import subprocess
import time
from collections import OrderedDict
from io import BytesIO

import numpy as np
import pytest
import torch

from difflow import load_denoiser
from difflow.checkpoints import UnsafePickleError, describe, read_tensors, unpickle
from difflow.checkpoints.stand_ins import _MAX_TUPLES
from edm_files import Persistent, dumps, storage_bytes


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], tuple(self.call[1:])


def weapons(sentinel):
    write = f"open({str(sentinel)!r}, 'w').close()"
    return {
        'posix.system': Attack(os.system, f'touch {sentinel}'),
        'builtins.eval': Attack(eval, write),
        'builtins.exec': Attack(exec, write),
        'builtins.open': Attack(open, str(sentinel), 'w'),
        'subprocess.check_call': Attack(subprocess.check_call, ['touch', str(sentinel)]),
        'builtins.getattr': Attack(getattr, Attack(eval, write), 'x', None),
        'torch.serialization.load': Attack(torch.load, BytesIO(storage_bytes(Attack(eval, write))), None),
        'torch.serialization.save': Attack(torch.save, {}, str(sentinel)),
        'pickle.loads': Attack(pickle.loads, pickle.dumps(Attack(eval, write))),
        'numpy.load': Attack(np.load, str(sentinel)),
    }


PLACES = {
    'top': lambda w: w,
    'ema': lambda w: {'ema': w},
    'list': lambda w: {'ema': [[(w,)]]},
    'state': lambda w: {'ema': Persistent('EDMPrecond', {'sigma_data': w})},
    'name': lambda w: {'ema': Persistent(w, {})},
    'source': lambda w: {'ema': Persistent('EDMPrecond', {}, w)},
    'module': lambda w: {'ema': Persistent('EDMPrecond', {'_modules': {'model': w}})},
    'kwargs': lambda w: {'ema': Persistent('EDMPrecond', {'_init_kwargs': {'a': w}})},
    'beside': lambda w: {'ema': Persistent('EDMPrecond', {}), 'loss_fn': w},
    'ordered': lambda w: {'ema': OrderedDict(a=w)},
    'deep': lambda w: {'ema': {'k': {'x': [{'y': w}]}}},
}


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('place', PLACES)
def test_weapons_are_named_and_do_not_fire(place, protocol, tmp_path):
    sentinel, path = tmp_path / 'owned', tmp_path / 'evil.pkl'
    for name, weapon in weapons(sentinel).items():
        if isinstance(weapon, Attack) and name.startswith('torch.serialization.load'):
            weapon.call = weapon.call[:1]
        path.write_bytes(dumps(PLACES[place](weapon), protocol))
        word = name.rsplit('.', 1)[-1]
        for read in (unpickle, load_denoiser, describe):
            with pytest.raises(
                ValueError, match=rf'evil.pkl is refused: it asks for [\w.]*({word}|reduce|_io|newobj)'
            ):
                read(path)
            assert not sentinel.exists(), name


@pytest.mark.parametrize(
    'wrap',
    [
        lambda w: storage_bytes(w),
        lambda w: storage_bytes({'a': w}),
        lambda w: storage_bytes(torch.ones(2).untyped_storage())[:-8] + pickle.dumps(w),
        lambda w: pickle.dumps(w),
        lambda w: b'PK\x03\x04' + pickle.dumps(w),
    ],
)
def test_programs_inside_the_numbers_of_a_tensor(wrap, tmp_path):
    sentinel, path = tmp_path / 'owned', tmp_path / 'evil.pkl'
    for name, weapon in weapons(sentinel).items():
        if not isinstance(weapon, Attack) or 'load' in name:
            continue
        path.write_bytes(dumps({'ema': Attack(torch.storage._load_from_bytes, wrap(weapon))}))
        with pytest.raises(ValueError, match='evil.pkl is refused'):
            load_denoiser(path)
        assert not sentinel.exists()


GLOBAL = lambda module, name: (
    b'\x8c' + bytes([len(module)]) + module + b'\x8c' + bytes([len(name)]) + name + b'\x93'
)


ALLOWED = [
    (b'torch._utils', b'_rebuild_tensor_v2'),
    (b'torch._utils', b'_rebuild_parameter'),
    (b'torch.storage', b'_load_from_bytes'),
    (b'torch.nn.modules.container', b'ModuleDict'),
    (b'torch_utils.persistence', b'_reconstruct_persistent_obj'),
    (b'collections', b'OrderedDict'),
    (b'dnnlib.util', b'EasyDict'),
    (b'builtins', b'set'),
    (b'numpy', b'dtype'),
    (b'numpy.core.multiarray', b'scalar'),
]


@pytest.mark.parametrize('module, name', ALLOWED)
def test_what_is_allowed_cannot_be_changed_or_looked_into(module, name, tmp_path):
    path = tmp_path / 'evil.pkl'
    what = GLOBAL(module, name)
    state = b'N}\x8c\x08__call__K\x01s\x86'  # (None, {'__call__': 1}): set an attribute
    for program in [
        what + state + b'b.',
        what + b'}\x8c\x01aK\x01sb.',
        GLOBAL(module, name + b'.__globals__') + b'.',
        GLOBAL(module, name + b'.function') + b'.',
        GLOBAL(module + b'.' + name, b'__init__') + b'.',
    ]:
        path.write_bytes(b'\x80\x04' + program)
        with pytest.raises(ValueError, match='evil.pkl'):
            read_tensors(path)
    path.write_bytes(dumps({'a': torch.ones(3)}))  # and the reader is as it was
    assert read_tensors(path)['a'].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    'name, program, message',
    [
        ('memo', b'\x80\x04Nr\xff\xff\xff\x7f.', 'a memo of 2,147,483,647 entries'),
        ('tuples', b'\x80\x04}N' + b'\x85' * 300_000 + b'Ns.', f'more than {_MAX_TUPLES:,} tuples'),
        ('instructions', b'\x80\x04' + b'N0' * 1_100_000 + b'N.', 'more than 2,000,000 instructions'),
        ('long bytes', b'\x80\x04\x8e' + struct.pack('<Q', 1 << 40) + b'x.', 'cut short or damaged'),
        ('long text', b'\x80\x04\x8d' + struct.pack('<Q', 1 << 62) + b'x.', 'cut short or damaged'),
        ('frame', b'\x80\x04\x95' + struct.pack('<Q', 1 << 62) + b'N.', 'evil.pkl'),
        ('extension', b'\x80\x04\x82\x01.', 'the instruction EXT1'),
        ('persistent', b'\x80\x04NQ.', 'BINPERSID'),
        ('text', b"(S'touch x'\nios\nsystem\n.", 'asks for the instruction STRING'),
        ('instance', b'\x80\x04(ios\nsystem\n.', 'asks for os.system'),
        ('no stop', b'\x80\x04N', 'cut short'),
        ('empty stack', b'\x80\x04.', 'cut short'),
        ('text number', b'I1\n.', 'the instruction INT'),
        ('old protocol', b'cos\nsystem\n(Vtouch x\ntR.', 'asks for os.system'),
    ],
)
def test_bombs_and_broken_programs(name, program, message, tmp_path):
    path = tmp_path / 'evil.pkl'
    path.write_bytes(program)
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        unpickle(path)
    assert time.process_time() - start < 5


def rebuilt(storage, offset=0, size=(2, 2), stride=(2, 1)):
    return {'w': Attack(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())}


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(offset=1), 'larger than its numbers'),
        (dict(size=(2, 3), stride=(3, 1)), 'larger than its numbers'),
        (dict(stride=(2, 10**9)), 'larger than its numbers'),
        (dict(offset=-1), 'out of range'),
        (dict(stride=(-2, -1)), 'out of range'),
        (dict(size=(1 << 50, 0)), 'out of range'),
        (dict(size=(1000, 1000), stride=(0, 0)), 'larger than its numbers'),
        (dict(size=[2, 2]), 'shape of a tensor'),
        (dict(size=(2,)), 'shape of a tensor'),
        (dict(size=(2.0, 2.0)), 'out of range'),
        (dict(size=(1,) * 9, stride=(1,) * 9), 'shape of a tensor'),
    ],
)
def test_tensors_that_leave_their_numbers(arguments, message, tmp_path):
    path = tmp_path / 'evil.pkl'
    path.write_bytes(dumps(rebuilt(torch.ones(4).storage(), **arguments)))
    with pytest.raises(ValueError, match=message):
        read_tensors(path)


def test_more_tensors_than_bytes(tmp_path):
    storage, path = torch.ones(10_000).storage(), tmp_path / 'evil.pkl'
    many = {f'w{i}': rebuilt(storage, size=(10_000,), stride=(1,))['w'] for i in range(50)}
    path.write_bytes(dumps(many))
    with pytest.raises(ValueError, match='more tensors than it can hold'):
        read_tensors(path)
    path.write_bytes(dumps(rebuilt(torch.ones(4, dtype=torch.complex64).storage())))
    with pytest.raises(ValueError, match='unusual type'):
        read_tensors(path)
    path.write_bytes(dumps(rebuilt('text')))
    with pytest.raises(ValueError, match='unusual type'):
        read_tensors(path)


def test_numbers_of_numpy(tmp_path):
    path = tmp_path / 'n.pkl'
    numbers = [
        np.sqrt(0.5),
        np.float32(2),
        np.int64(-3),
        np.uint8(7),
        np.bool_(True),
        np.dtype('>f8').type(1.5),
    ]
    path.write_bytes(pickle.dumps(numbers, 4))
    assert unpickle(path) == [float(np.sqrt(0.5)), 2, -3, 7, True, 1.5]
    objects = np.array([1.0, None]), np.array(['x']), np.array([1j])
    for thing in (np.str_('x'), np.complex64(1), np.datetime64('2020'), *objects):
        path.write_bytes(pickle.dumps(thing, 4))
        assert type(unpickle(path)).__name__ == '_PickledObject'  # dead: no number, and no reason to refuse


@pytest.mark.parametrize('protocol', range(2, 6))
def test_arrays_of_numpy(protocol, tmp_path):
    path, x = tmp_path / 'a.pkl', np.arange(24, dtype='f4').reshape(2, 3, 4)
    arrays = [x, x.T, x[:, ::2], x[:0], np.array(3.0), x.astype('>i8').astype('i8'), x > 3]
    path.write_bytes(pickle.dumps({'arrays': arrays, 'again': arrays[0]}, protocol))
    content = unpickle(path)
    for array, other in zip(arrays, content['arrays'], strict=True):
        assert other.dtype == array.dtype.newbyteorder('=') and np.array_equal(other, array)
    assert content['again'] is content['arrays'][0]


class Broken:
    "Make an array of a state or of bytes that do not fit"

    def __init__(self, shape, code='f4', data=bytes(8)):
        self.parts = shape, code, data

    def __reduce__(self):
        shape, code, data = self.parts
        return (
            np.array([0]).__reduce__()[0],
            (np.ndarray, (0,), b'b'),
            (1, shape, np.dtype(code), False, data),
        )


@pytest.mark.parametrize(
    'broken',
    [
        Broken((3,)),
        Broken((1 << 40,)),
        Broken((-2,)),
        Broken([2]),
        Broken((2,), data=[1.0, 2.0]),
        Broken((0,) * 9, data=b''),
    ],
)
def test_arrays_that_do_not_fit_are_refused(broken, tmp_path):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(broken, 4))
    with pytest.raises(UnsafePickleError, match='array'):
        unpickle(tmp_path / 'a.pkl')


def test_arrays_of_the_same_bytes_are_counted(tmp_path):
    data = bytes(4000)
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps([Broken((1000,), data=data) for _ in range(99)], 4))
    with pytest.raises(UnsafePickleError, match='more tensors than it can hold'):
        unpickle(tmp_path / 'a.pkl')
