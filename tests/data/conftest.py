"""Six small images, as bytes and as a folder of PNG files."""

import pytest
import torch

from difflow.data import save_images


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (6, 3, 9, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def flat(tmp_path, pixels):
    save_images(pixels, tmp_path / 'flat')
    return tmp_path / 'flat'
