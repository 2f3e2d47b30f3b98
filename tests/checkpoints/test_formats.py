"""What a file is instead."""

import pytest
import torch

from difflow.checkpoints.formats import _what_is
from difflow.checkpoints.guided_unets import _unet_architecture


def test_what_is_and_architecture_need_no_network(tmp_path):
    (tmp_path / 'x').write_bytes(b'\x7fELF....')
    assert _what_is(tmp_path / 'x') == 'a program'
    with pytest.raises(ValueError, match='no guided-diffusion U-Net'):
        _unet_architecture({'a': torch.ones(1)})
