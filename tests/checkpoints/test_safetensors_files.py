"""Safetensors files: headers that lie, permissions, and bare ones."""

import json
import os

import pytest
import torch
from small_models import TELL, small_net

from difflow import EDMDenoiser, load_denoiser, save
from difflow.checkpoints import read_tensors
from golden import tiny_unet


def test_headers_that_lie(tmp_path):
    from safetensors.torch import save_file

    path = save(EDMDenoiser(small_net()), tmp_path / 'x.safetensors')
    tensors = {k: t.clone() for k, t in read_tensors(path).items()}  # not a view of the file written below
    raw = path.read_bytes()
    outer = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')])
    header = json.loads(outer['__metadata__']['difflow'])
    for change, message in [
        (dict(format=2), 'another version'),
        (dict(sha256='0' * 64), 'damaged'),
        (dict(denoiser='System'), "unknown 'System' of 'UNet'"),
        (dict(network='os'), "unknown 'EDMDenoiser' of 'os'"),
        (dict(options={'sigma_data': -1}), 'sigma_data must be a number > 0'),
        (dict(options={'x': 1}), 'unexpected keyword'),
        (dict(config={}), 'image_size'),
        (dict(config=header['config'] | {'image_size': 0}), 'image_size must be'),
        (dict(config=5), 'the header lacks'),
        (dict(config=header['config'] | {'num_res_blocks': 2}), 'missing: input_blocks'),
    ]:
        save_file(tensors, path, {'difflow': json.dumps(header | change)})
        with pytest.raises(ValueError, match=message):
            load_denoiser(path)
    for text in ['{', '[]', '5', 'null']:
        save_file(tensors, path, {'difflow': text})
        with pytest.raises(ValueError, match='x.safetensors'):
            load_denoiser(path)


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    net = tiny_unet()
    save_file(net.state_dict(), tmp_path / 'x.safetensors')
    assert load_denoiser(tmp_path / 'x.safetensors', **TELL).net.config == net.config


@pytest.mark.parametrize('umask, mode', [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        path = save(EDMDenoiser(small_net()), tmp_path / 'x.safetensors')
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_header_of_any_length_is_read(tmp_path):
    from difflow.checkpoints import write_tensors

    firsts = set()
    for extra in range(0, 256, 8):  # the first byte of the file is that of a pickle, too
        path = write_tensors({'a': torch.arange(3.0)}, tmp_path / 'x', {'b': 'c' * extra})
        firsts.add(path.read_bytes()[0])
        assert read_tensors(path)['a'].tolist() == [0, 1, 2]
    assert 0x80 in firsts
