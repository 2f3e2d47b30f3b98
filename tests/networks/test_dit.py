"""The diffusion transformer against the published code: outputs that it made, its names, and single parts."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from difflow import DDPMDenoiser
from difflow.networks import DiT
from golden import FIXTURES, fill, wave

TINY = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, num_classes=10)
T, Y = torch.tensor([3.0, 700.5]), torch.tensor([1, 10])


def test_outputs_are_the_published_ones():
    net = fill(DiT(**TINY), keep=['pos_embed'])
    expected = torch.from_numpy(np.load(FIXTURES / 'other_trainers.npz')['dit'])
    with torch.inference_mode():
        out = net(wave((2, 4, 8, 8)), T, Y)
    assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_names_are_the_published_ones():
    names = list(DiT(**TINY | dict(depth=1)).state_dict())
    blocks = 'attn.qkv attn.proj mlp.fc1 mlp.fc2 adaLN_modulation.1'.split()
    layers = ['x_embedder.proj', 't_embedder.mlp.0', 't_embedder.mlp.2', 'final_layer.linear']
    layers += [f'blocks.0.{name}' for name in blocks] + ['final_layer.adaLN_modulation.1']
    expected = {f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')}
    assert set(names) == expected | {'pos_embed', 'y_embedder.embedding_table.weight'}


def test_a_transformer_of_diffusers_with_the_same_waves_answers_alike():
    diffusers = pytest.importorskip('diffusers', reason="pip install 'difflow-lab[peers]'")
    net = fill(DiT(**TINY), keep=['pos_embed'])
    other = diffusers.DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()
    other.load_state_dict(renamed(net.state_dict(), 2))
    for block in other.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = (
            0  # it is 1, which no published model was trained with
        )
    with torch.inference_mode():
        expected = other(wave((2, 4, 8, 8)), timestep=T, class_labels=Y).sample
        assert (net(wave((2, 4, 8, 8)), T, Y) - expected).abs().max() <= 1e-4 * expected.abs().max()


def renamed(state, depth):
    "Return the weights under the names of diffusers"
    both = lambda old, new: {f'{new}.{kind}': state[f'{old}.{kind}'] for kind in ('weight', 'bias')}
    out = both('x_embedder.proj', 'pos_embed.proj') | both('final_layer.linear', 'proj_out_2')
    out |= both('final_layer.adaLN_modulation.1', 'proj_out_1')
    for i in range(depth):
        old, new = f'blocks.{i}', f'transformer_blocks.{i}'
        emb = f'{new}.norm1.emb'
        out |= both('t_embedder.mlp.0', f'{emb}.timestep_embedder.linear_1')
        out |= both('t_embedder.mlp.2', f'{emb}.timestep_embedder.linear_2')
        out[f'{emb}.class_embedder.embedding_table.weight'] = state['y_embedder.embedding_table.weight']
        out |= both(f'{old}.adaLN_modulation.1', f'{new}.norm1.linear')
        out |= both(f'{old}.attn.proj', f'{new}.attn1.to_out.0')
        out |= both(f'{old}.mlp.fc1', f'{new}.ff.net.0.proj') | both(f'{old}.mlp.fc2', f'{new}.ff.net.2')
        for kind in ('weight', 'bias'):
            for name, part in zip('qkv', state[f'{old}.attn.qkv.{kind}'].chunk(3)):
                out[f'{new}.attn1.to_{name}.{kind}'] = part
    return out


def test_it_is_attention_with_plain_sums():
    net = fill(DiT(**TINY), keep=['pos_embed'])
    attention, x = net.blocks[0].attn, wave((2, 5, 48))
    q, k, v = attention.qkv(x).reshape(2, 5, 3, 3, 16).permute(2, 0, 3, 1, 4)
    weights = torch.einsum('bhic,bhjc->bhij', q, k).div(4).softmax(-1)
    expected = attention.proj(torch.einsum('bhij,bhjc->bihc', weights, v).reshape(2, 5, 48))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_patches_come_back_where_they_were():
    net = DiT(**TINY | dict(learn_sigma=False, in_channels=3, hidden_size=12, num_heads=1))
    x = torch.randn(2, 3, 8, 8)
    tokens = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)  # (B, 16, C * 4), channels first
    squares = tokens.unflatten(2, (3, 4)).transpose(2, 3).flatten(2)
    assert torch.equal(net._as_image(squares), x)


def test_it_comes_back_from_its_configuration_and_is_a_denoiser():
    net = DiT(**TINY)
    again = DiT(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    denoiser = DDPMDenoiser(again.eval(), variance='learned_range')
    assert denoiser.image_shape == (4, 8, 8) and denoiser.num_classes == 10
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(denoiser(x, 1.5, torch.tensor([1, 10])), x)  # at its start it answers nothing


def test_no_class_is_shown_in_training_as_often_as_asked():
    torch.manual_seed(0)
    table = DiT(**TINY | dict(class_dropout_prob=0.25)).y_embedder.train()
    rows = table(torch.zeros(4000, dtype=torch.int64))
    share = (rows == table.embedding_table.weight[10]).all(1).float().mean()
    assert abs(share - 0.25) < 0.03
    assert torch.equal(table.eval()(torch.tensor([3]))[0], table.embedding_table.weight[3])


def test_without_dropped_classes_labels_are_needed():
    net = DiT(**TINY | dict(class_dropout_prob=0.0))
    assert net.y_embedder.embedding_table.num_embeddings == 10 and not net.null_class
    with pytest.raises(ValueError, match='labels are missing'):
        net(torch.zeros(1, 4, 8, 8), torch.tensor(3.0))


def test_an_image_is_answered_alike_beside_others():
    net = fill(DiT(**TINY), keep=['pos_embed'])
    x = torch.randn(4, 4, 8, 8)
    with torch.inference_mode():
        whole = net(x, torch.tensor(5.0), torch.arange(4))
        each = [net(x[i : i + 2], torch.tensor(5.0), torch.arange(i, i + 2)) for i in (0, 2)]
    torch.testing.assert_close(torch.cat(each), whole, atol=1e-5, rtol=1e-5)
