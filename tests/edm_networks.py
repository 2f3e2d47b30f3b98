"""Small networks of EDM with known weights, for several test files."""

import math

import torch

from difflow.networks import edm_network

TINY = dict(
    img_resolution=16,
    in_channels=3,
    out_channels=3,
    model_channels=16,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
)


def ramp(*shape):
    return torch.cos(0.1 * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


def by_order(net):
    "Load weights that depend on the order of the parameters; return the network in eval mode."
    for k, (name, p) in enumerate(net.named_parameters()):
        v = torch.sin(0.37 * torch.arange(p.numel(), dtype=torch.float64) + k)
        if 'norm' in name and name.endswith('weight'):
            v = 1 + 0.1 * v
        else:
            v = 1.5 * v / math.sqrt(p.numel() / len(p)) if p.ndim >= 2 else 0.1 * v
        p.data = v.reshape(p.shape).float()
    for name, buffer in net.named_buffers():
        if name.endswith('freqs'):
            buffer.copy_(1.5 * torch.cos(torch.arange(len(buffer)).double()))
    return net.eval()


NETWORKS = dict(
    A=('ddpmpp', dict(model_channels=32), 1_560_803),
    B=('ncsnpp', dict(model_channels=32), 1_603_907),
    C=(
        'ddpmpp',
        dict(model_channels=32, encoder_type='skip', decoder_type='skip', resample_filter=[1, 3, 3, 1]),
        1_565_033,
    ),
    D=('adm', dict(model_channels=64, channel_mult=[1, 2]), 3_344_259),
    E=('adm', dict(model_channels=64, channel_mult=[1, 2], out_channels=6), 3_345_990),
    F=('ddpmpp', dict(model_channels=32, channel_mult=[2, 2], label_dim=10), 1_050_499),
    G=('adm', dict(model_channels=64, channel_mult=[1, 2], label_dim=10), 3_346_819),
)


def table_network(row):
    "Return the network of a row of the table."
    arch, options, parameters = NETWORKS[row]
    return by_order(
        edm_network(arch, 16, **dict(augment_dim=9, num_blocks=1, dropout=0.13) | options)
    ), parameters
