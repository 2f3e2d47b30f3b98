"""DDPM++, NCSN++ and ADM against published outputs, keys and parameter counts."""

import numpy as np
import pytest
import torch

from difflow import SongUNet
from difflow.networks import edm_network
from edm_networks import NETWORKS, TINY, ramp, table_network
from golden import FIXTURES, fill, wave

NCSNPP = dict(
    embedding_type='fourier', encoder_type='residual', channel_mult_noise=2, resample_filter=[1, 3, 3, 1]
)
SKIP = dict(
    embedding_type='fourier',
    encoder_type='skip',
    decoder_type='skip',
    channel_mult_noise=2,
    resample_filter=[1, 3, 3, 1],
    label_dim=10,
)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    'name, options, parameters, tensors',
    [('song_ddpmpp', {}, 189_347, 146), ('song_ncsnpp', NCSNPP, 190_819, 150)],
)
def test_outputs_are_the_published_ones(name, options, parameters, tensors):
    net = fill(SongUNet(**TINY | options), keep=['resample_filter'])
    assert count(net) == parameters and len(net.state_dict()) == tensors
    expected = torch.from_numpy(np.load(FIXTURES / 'edm.npz')[name])
    with torch.inference_mode():
        out = net(wave((2, 3, 16, 16)), torch.tensor([0.3, -1.2]))
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize('title, options', [('ddpmpp', {}), ('skip', SKIP)])
def test_keys_shapes_and_order_are_the_published_ones(title, options):
    parts = (FIXTURES / 'edm_state_dicts.txt').read_text().split('# tiny SongUNet, ')[1:]
    published = dict(part.split(': key, shape\n', 1) for part in parts)[title].strip().split('\n')
    state = SongUNet(**TINY | options).state_dict()
    assert [f'{key} {list(value.shape)}' for key, value in state.items()] == published


@pytest.mark.parametrize(
    'arch, size, options, parameters, tensors',
    [
        ('ddpmpp', 32, dict(model_channels=64, augment_dim=9), 13_956_931, 425),
        ('ddpmpp', 32, dict(augment_dim=9), 55_733_891, 425),
        ('ddpmpp', 32, dict(model_channels=256, augment_dim=9), 222_747_907, 425),
        ('ncsnpp', 32, dict(augment_dim=9), 56_397_827, 432),
        ('adm', 32, dict(augment_dim=9), 279_625_923, 553),
        ('adm', 64, dict(label_dim=1000), 295_899_267, 553),
        ('ddpmpp', 4, dict(augment_dim=9), 54_415_491, None),
    ],
)
def test_published_sizes(arch, size, options, parameters, tensors):
    with torch.device('meta'):
        net = edm_network(arch, size, **options)
    assert count(net) == parameters and tensors in (None, len(net.state_dict()))


# The seven networks of another table: weights v_j = sin(0.37 j + k) for the k-th parameter

ANSWERS = dict(  # sum, sum of magnitudes, first three, last
    A=(-335.8323, 378.0476, [0.15885, 0.28537, 0.21663], -0.17622),
    B=(-641.1154, 697.3307, [0.31226, 0.42155, 0.4389], -0.38989),
    C=(2719.6671, 3106.9047, [1.82843, 2.66239, 3.1373], -0.16058),
    D=(-6830.1959, 6830.1959, [-1.948, -3.46356, -3.47276], -0.79014),
    E=(-5958.5289, 9805.6896, [-1.948, -3.46356, -3.47276], 2.54018),
    F=(258.4864, 258.7122, [-0.01564, 0.02199, 0.03556], -0.02652),
    G=(-4806.5105, 4880.8322, [1.28134, 1.19467, 1.34664], -2.84017),
)


@pytest.mark.parametrize('row', NETWORKS)
def test_table_of_seven_networks(row):
    net, parameters = table_network(row)
    assert count(net) == parameters
    labels = torch.tensor([3, 7]) if row in 'FG' else None
    total, size, first, last = ANSWERS[row]
    with torch.inference_mode():
        out = net(ramp(2, 3, 16, 16).float(), torch.tensor([0.3, 0.7]), labels, augment_labels=ramp(2, 9))
    assert out.flatten()[:3].tolist() == pytest.approx(first, abs=1e-4)
    assert out.flatten()[-1].item() == pytest.approx(last, abs=1e-4)
    # 1536 elements, each known to 1e-4 and better
    assert out.sum().item() == pytest.approx(total, abs=1e-5 * size)
    assert out.abs().sum().item() == pytest.approx(size, rel=1e-5)
