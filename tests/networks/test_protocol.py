"""The protocol of a network: ours and the shipped ones conform, others get the defaults."""

import pytest
import torch
from torch import nn

from difflow import EDMDenoiser, load_denoiser
from difflow.networks import NETWORKS, Network, network_facts

GUIDED = dict(
    image_size=16, in_channels=3, model_channels=32, out_channels=3, num_res_blocks=1, channel_mult=[1]
)
EDM = dict(
    img_resolution=16, in_channels=3, out_channels=3, model_channels=64, channel_mult=[1], num_blocks=1
)
STAGES = dict(
    sample_size=16,
    block_out_channels=[32],
    down_block_types=['DownBlock2D'],
    up_block_types=['UpBlock2D'],
    layers_per_block=1,
)
EDM2 = dict(img_resolution=16, img_channels=3, model_channels=32, channel_mult=[1], num_blocks=1)
DIT = dict(input_size=16, in_channels=3, hidden_size=16, depth=1, num_heads=2, num_classes=7)
CASES = [
    ('UNet', GUIDED, None, False),
    ('UNet', GUIDED | dict(num_classes=7), 7, False),
    ('UNet', GUIDED | dict(num_classes=7, null_class=True), 7, True),
    ('SongUNet', EDM, None, False),
    ('SongUNet', EDM | dict(label_dim=7), 7, True),
    ('DhariwalUNet', EDM | dict(label_dim=7), 7, True),
    ('EDM2UNet', EDM2, None, False),
    ('EDM2UNet', EDM2 | dict(label_dim=7), 7, True),
    ('LucidUNet', dict(dim=8, dim_mults=[1, 2], channels=3, image_size=16), None, False),
    ('DiT', DIT | dict(class_dropout_prob=0.0), 7, False),
    ('DiT', DIT, 7, True),
    ('DiffusersUNet', STAGES, None, False),
    ('DiffusersUNet', STAGES | dict(num_class_embeds=7), 7, False),
    ('CodedUNet', GUIDED | dict(code_size=4), None, False),
    ('CodedDiffusersUNet', STAGES | dict(code_size=4), None, False),
]


@pytest.mark.parametrize('name, config, num_classes, null_class', CASES)
def test_ours_conform(name, config, num_classes, null_class):
    with torch.device('meta'):
        net = NETWORKS[name](**config)
    assert isinstance(net, Network)
    facts = network_facts(net)
    assert facts == (net.config, num_classes, null_class, (3, 16, 16))
    assert config.items() <= facts.config.items()
    denoiser = EDMDenoiser(net)
    assert (denoiser.num_classes, denoiser.null_class) == (num_classes, null_class)
    assert denoiser.image_shape == (3, 16, 16)


def test_every_name_has_a_case():
    assert {case[0] for case in CASES} == set(NETWORKS) - {'DiffusersModule'}  # has a test of its own


def test_a_compiled_network_states_the_same():
    net = NETWORKS['UNet'](**GUIDED | dict(num_classes=7))
    assert network_facts(torch.compile(net)) == network_facts(net)


@pytest.mark.parametrize('name', ['mnist', 'mnist-class', 'colored-mnist', 'digits', 'emoji', 'photos'])
def test_shipped_networks_conform(name):
    denoiser = load_denoiser(name)
    assert (
        isinstance(denoiser.net, Network) and network_facts(denoiser.net).image_shape == denoiser.image_shape
    )


def test_foreign_networks_get_the_defaults():
    net = nn.Conv2d(3, 3, 3)
    assert not isinstance(net, Network) and network_facts(net) == ({}, None, False, None)
    net.config = dict(image_size=8)  # half of what is needed for a shape
    assert network_facts(net).image_shape is None
    net.config = net.config | dict(in_channels=3)
    assert network_facts(net).image_shape == EDMDenoiser(net).image_shape == (3, 8, 8)
