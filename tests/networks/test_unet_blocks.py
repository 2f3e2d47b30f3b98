"""Time embedding and attention of the U-Net against their published definitions."""

import pytest
import torch

from difflow.networks import timestep_embedding
from difflow.networks.unet_blocks import _AttentionBlock
from golden import fill, wave


def test_timestep_embedding_reference():
    expected = torch.tensor([[0.5403023, 0.9989229, 0.9999977, 0.8414710, 0.0463992, 0.0021544, 0.0]])
    torch.testing.assert_close(timestep_embedding(torch.tensor([1]), 7), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('new', [True, False])
def test_attention_is_the_published_einsum(new):
    block = fill(_AttentionBlock(64, 4, new))
    x = wave((2, 64, 5, 6), 0.37)
    qkv = block.qkv(block.norm(x).flatten(2))
    if new:
        q, k, v = (part.reshape(8, 16, 30) for part in qkv.chunk(3, dim=1))
    else:
        q, k, v = qkv.reshape(8, 48, 30).split(16, dim=1)
    weight = torch.softmax(torch.einsum('bct,bcs->bts', q, k) / 4, dim=-1)
    expected = x + block.proj_out(torch.einsum('bts,bcs->bct', weight, v).reshape(2, 64, 30)).view_as(x)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
