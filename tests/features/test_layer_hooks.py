"""Hooks leave the network as it was"""

import pytest
import torch
from torch import nn

from difflow.features import LayerHooks, activation_statistics
from token_network import Tokens


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tokens()


@pytest.fixture
def images():
    return torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_hooks_go_and_modes_return(model, images):
    model.train()
    activation_statistics(model, images)
    with pytest.raises(ValueError, match=r'layer maps returns'):
        with LayerHooks(nn.ModuleDict(), [], None):
            pass
        network = nn.Sequential()
        network.maps = nn.Identity()
        with LayerHooks(network, ['maps'], lambda name, a: None) as hooked:
            hooked(torch.zeros(1, 1, 1, 1, 1))
    assert model.training and not any(m._forward_hooks for m in model.modules())
    model.layers.append('lost')
    model.lost = nn.Identity()
    with pytest.raises(ValueError, match='lost does not run'):
        activation_statistics(model, images)
    assert model.training and not any(m._forward_hooks for m in model.modules())
