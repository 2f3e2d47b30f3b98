"""Files of any kind: attacks, damage, and what is no checkpoint."""

import os
import pickle
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from small_models import small_net

from difflow import EDMDenoiser, load_denoiser, save
from difflow.checkpoints import describe, read_tensors


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], tuple(self.call[1:])


class BuildAttack:
    "Runs through __setstate__ of an allowed-looking class rather than through a call."

    def __init__(self, attack):
        self.attack = attack

    def __reduce__(self):
        return list, (), self.attack


def attacks(sentinel):
    write = f"open({str(sentinel)!r}, 'w').close()"
    return {
        'os.system': Attack(os.system, f'touch {sentinel}'),
        'eval': Attack(eval, write),
        'exec': Attack(exec, write),
        'subprocess': Attack(subprocess.check_call, ['touch', str(sentinel)]),
        'open': Attack(open, str(sentinel), 'w'),
        'Path.touch': Attack(Path.touch, sentinel),
        'copy': Attack(shutil.copy, __file__, str(sentinel)),
        'torch.save': Attack(torch.save, {}, str(sentinel)),
        'mknod': Attack(os.mknod, str(sentinel)),
        'getattr': Attack(getattr, Attack(eval, write), 'x', None),
        'state': BuildAttack(Attack(eval, write)),
    }


NAMES = list(attacks(Path('x')))


WAYS = {
    'zip': lambda attack, path: torch.save(attack, path),
    'nested': lambda attack, path: torch.save({'model': {'w': torch.ones(2), 'more': [(attack,)]}}, path),
    'key order': lambda attack, path: torch.save({'a': torch.ones(1), 'z': {'b': {'c': attack}}}, path),
    'legacy': lambda attack, path: torch.save({'w': attack}, path, _use_new_zipfile_serialization=False),
    'data.pkl': lambda attack, path: hand_made(attack, path),
    'pickle 0': lambda attack, path: path.write_bytes(pickle.dumps(attack, 0)),
    'pickle 2': lambda attack, path: path.write_bytes(pickle.dumps({'model': attack}, 2)),
    'pickle 5': lambda attack, path: path.write_bytes(pickle.dumps(attack, 5)),
}


def hand_made(attack, path):
    "Put a pickle of the highest protocol into an archive that looks like torch.save's."
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({'weight': attack}, 5))
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/byteorder', 'little')


@pytest.mark.parametrize('name', NAMES)
def test_the_attacks_are_real(name, tmp_path):
    sentinel = tmp_path / 'owned'
    try:
        pickle.loads(pickle.dumps(attacks(sentinel)[name]))
    except AttributeError:
        assert name == 'state'
    assert sentinel.exists()


@pytest.mark.parametrize('suffix', ['pt', 'pkl', 'safetensors'])
@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', NAMES)
def test_attacks_run_nothing(name, way, suffix, tmp_path):
    sentinel, path = tmp_path / 'owned', tmp_path / f'evil.{suffix}'
    attack = attacks(sentinel)[name]
    WAYS[way](attack, path)
    assert not sentinel.exists()
    for read in (read_tensors, load_denoiser, describe):
        with pytest.raises(ValueError, match=f'evil.{suffix}'):
            read(path)
        assert not sentinel.exists()


def test_foreign_files(tmp_path):
    import numpy as np
    from PIL import Image

    Image.new('L', (8, 8)).save(tmp_path / 'png', format='png')
    Image.new('L', (8, 8)).save(tmp_path / 'jpeg', format='jpeg')
    np.save(tmp_path / 'npy.npy', np.ones(3))
    np.savez_compressed(tmp_path / 'npz.npz', np.ones(3))
    (tmp_path / 'text').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1234')
    (tmp_path / 'json').write_text('{"a": 1}')
    (tmp_path / 'empty').touch()
    (tmp_path / 'noise').write_bytes(random.Random(0).randbytes(4096))
    (tmp_path / 'pickle').write_bytes(pickle.dumps([1, 2, 3]))
    torch.save([torch.ones(2)], tmp_path / 'list')
    torch.save(torch.ones(2), tmp_path / 'tensor')
    torch.save({}, tmp_path / 'nothing')
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), str(tmp_path / 'script'))
    found = {
        'png': 'a PNG image',
        'jpeg': 'a JPEG image',
        'npy.npy': 'a NumPy array',
        'npz.npz': 'compressed zip archive',
        'text': "text, 'version https://git-lfs",
        'json': 'text,',
        'empty': 'an empty file',
        'noise': 'unknown data',
        'pickle': 'a list',
        'list': 'a list',
        'tensor': 'a Tensor',
        'nothing': 'an empty dict',
        'script': 'compressed zip archive',
    }
    for name, message in found.items():
        with pytest.raises(ValueError, match=f'{name}[ :].*{message}'):
            read_tensors(tmp_path / name)
    with pytest.raises(ValueError, match='is no folder of diffusers: it has no config.json'):
        load_denoiser(tmp_path)


@pytest.mark.parametrize('kind', ['safetensors', 'zip', 'legacy'])
def test_truncated_files(kind, tmp_path):
    denoiser, path = EDMDenoiser(small_net()), tmp_path / 'whole'
    if kind == 'safetensors':
        save(denoiser, path)
    else:
        torch.save(denoiser.net.state_dict(), path, _use_new_zipfile_serialization=kind == 'zip')
    raw = path.read_bytes()
    assert read_tensors(path).keys() == denoiser.net.state_dict().keys()
    for length in [1, 7, 8, 9, 10, 100, 5000, len(raw) // 2, len(raw) - 1000, len(raw) - 1]:
        (tmp_path / 'cut').write_bytes(raw[:length])
        with pytest.raises(ValueError, match='cut '):
            read_tensors(tmp_path / 'cut')


def test_flipped_bits_never_pass_or_crash(tmp_path):
    rng, net, path = random.Random(0), small_net(), tmp_path / 'bad'
    save(EDMDenoiser(net), tmp_path / 'a')
    torch.save(net.state_dict(), tmp_path / 'b')
    for name in 'ab':
        raw = (tmp_path / name).read_bytes()
        for _ in range(60):
            flipped = bytearray(raw)
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
            try:
                tensors = read_tensors(path)
            except ValueError as error:
                assert str(path) in str(error)
                continue
            for key, tensor in net.state_dict().items():
                assert torch.equal(tensors[key], tensor)  # padding


def test_scrambled_pickles_raise_value_errors_alone(tmp_path):
    rng, path = random.Random(1), tmp_path / 'bad.pt'
    torch.save({'a': torch.ones(3, 4), 'b': torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    for _ in range(300):
        scrambled = bytearray(raw)
        for _ in range(3):
            scrambled[rng.randrange(len(raw))] = rng.randrange(256)
        path.write_bytes(scrambled)
        try:
            read_tensors(path)
        except ValueError:
            pass
