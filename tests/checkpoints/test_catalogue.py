"""The published models: sizes, names and addresses."""

import pytest
import torch

from difflow import UNet
from difflow.checkpoints import published_config
from difflow.checkpoints.catalogue import _PUBLISHED_FILES, _PUBLISHED_MODELS
from difflow.checkpoints.guided_unets import _plan_guided


def meta_plan(given=None, **options):
    with torch.device('meta'):
        net = UNet(**options)
    return net, _plan_guided(net.state_dict(), given or {})


@pytest.mark.parametrize(
    'name, size, channels, classes, parameters, tensors',
    [
        ('ADM', 256, 3, None, 552_814_086, 566),
        ('ADM', 256, 3, 1000, 553_838_086, 567),
        ('ADM', 64, 3, 1000, 295_904_454, 541),
        ('ADM', 128, 3, 1000, 421_529_606, 493),
        ('ADM', 512, 3, 1000, 558_997_638, 645),
        ('UNet', 28, 1, 10, 14_417_345, 537),
        ('UNet', 32, 3, 10, 14_419_651, 537),
        ('UNet', 32, 3, 43, 14_428_099, 537),
        ('UNet', 64, 3, 102, 32_875_395, 541),
        ('UNet', 128, 3, None, 33_993_347, 638),
        ('UNetSmall', 28, 1, 10, 2_578_369, 413),
        ('UNetSmall', 32, 3, 10, 2_579_523, 413),
        ('UNetSmall', 64, 3, 102, 6_071_939, 417),
        ('UNetBig', 32, 3, 10, 129_422_403, 537),
        ('UNetBig', 64, 3, 102, 295_209_603, 541),
    ],
)
def test_named_configurations_have_the_published_sizes(name, size, channels, classes, parameters, tensors):
    net, plan = meta_plan({'image_size': size}, **published_config(name, size, channels, classes))
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == tensors
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config
    assert plan.missing == [] and (name if name != 'ADM' else 'guided') in plan.card['model']


def test_known_models_do_not_overlap():
    names = [known.name for known in _PUBLISHED_MODELS]
    assert len(set(names)) == len(names)


def test_all_published_urls_are_of_their_owners():
    for name, model in _PUBLISHED_FILES.items():
        assert model.url.startswith(
            (
                'https://openaipublic.blob.core.windows.net/diffusion/',
                'https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/',
                'https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/',
                'https://dl.fbaipublicfiles.com/DiT/models/',
            )
        )
        assert model.sha256 is None or len(model.sha256) == 64
        size = name.removesuffix('-fid').removesuffix('-dino')  # of EDM2, whose file says it, too
        others = 'adm-', 'iddpm-', 'dit-'
        assert f'/{size}' in model.url or name.startswith(others)
        assert model.url.endswith(f'/{name}.pkl') or name.startswith((*others, 'edm2-'))
