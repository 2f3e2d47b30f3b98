"""Networks of diffusers inside ours: beside the package itself, and beside a stand-in where it is absent."""

import json
import sys
import types

import pytest
import torch

from difflow import DDPMDenoiser, EDMDenoiser, VEDenoiser, load_denoiser, save
from difflow.checkpoints import describe
from difflow.networks import DiffusersModule, network_facts
from golden import fill, wave

PACKAGE = "pip install 'difflow-lab[hub]'"
SMALL = dict(sample_size=8, block_out_channels=[32, 32], norm_num_groups=8, layers_per_block=1)
NETWORKS = {
    'UNet2DModel': SMALL
    | dict(
        down_block_types=['SkipDownBlock2D', 'AttnSkipDownBlock2D'],
        up_block_types=['AttnSkipUpBlock2D', 'SkipUpBlock2D'],
        time_embedding_type='fourier',
        attention_head_dim=None,
        in_channels=3,
        out_channels=3,
    ),
    'UNet2DConditionModel': SMALL
    | dict(
        down_block_types=['DownBlock2D', 'CrossAttnDownBlock2D'],
        up_block_types=['CrossAttnUpBlock2D', 'UpBlock2D'],
        cross_attention_dim=16,
        attention_head_dim=2,
        in_channels=3,
        out_channels=3,
    ),
    'DiTTransformer2DModel': dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=2,
        sample_size=8, num_embeds_ada_norm=10,
    ),
}  # fmt: skip


def put(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(params=NETWORKS)
def theirs(request):
    "A small network of the package"
    diffusers = pytest.importorskip('diffusers', reason=PACKAGE)
    return fill(getattr(diffusers, request.param)(**NETWORKS[request.param])).eval()


def given(net):
    "Return what our network and what theirs is given beside image and time"
    name = type(net).__name__
    condition = wave((5, 16)) if 'Condition' in name else None
    labels = torch.tensor([3, 10]) if 'DiT' in name else None
    kwargs = {} if condition is None else dict(encoder_hidden_states=condition.expand(2, -1, -1))
    return condition, labels, kwargs | ({} if labels is None else dict(class_labels=labels))


def test_answers_are_those_of_the_package(theirs, tmp_path):
    condition, labels, kwargs = given(theirs)
    x, t = wave((2, 3, 8, 8)), torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        expected = theirs(x, t, **kwargs).sample
        ours = DiffusersModule.of(theirs, condition=condition)
        torch.testing.assert_close(ours(x, t, labels), expected)
        assert next(ours.parameters()) is next(theirs.parameters())
        theirs.save_pretrained(tmp_path / 'm')
        put(tmp_path / 'm' / 'scheduler_config.json', _class_name='EulerDiscreteScheduler')
        loaded = load_denoiser(tmp_path / 'm', **({} if condition is None else dict(condition=condition)))
        assert isinstance(loaded, DDPMDenoiser) and loaded.num_classes == (
            10 if 'DiT' in str(type(theirs)) else None
        )
        torch.testing.assert_close(loaded.net(x, t, labels), expected)
        again = load_denoiser(save(loaded, tmp_path / 's.safetensors'))
        torch.testing.assert_close(again.net(x, t, labels), expected)
    facts = network_facts(again.net)
    assert facts.image_shape == (3, 8, 8) and facts.null_class == ('DiT' in type(theirs).__name__)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    if facts.null_class:
        with torch.inference_mode():
            none, null = again.net(x, t), again.net(x, t, torch.tensor([10, 10]))
        assert torch.equal(none, null)
    if condition is not None:
        with pytest.raises(ValueError, match=r'condition= is missing: .* shape \(L, 16\)'):
            load_denoiser(tmp_path / 'm')


def test_score_networks_beside_the_pipeline(tmp_path):
    diffusers = pytest.importorskip('diffusers', reason=PACKAGE)
    net = fill(diffusers.UNet2DModel(**NETWORKS['UNet2DModel'])).eval()
    diffusers.ScoreSdeVePipeline(net, diffusers.ScoreSdeVeScheduler()).save_pretrained(tmp_path)
    loaded = load_denoiser(tmp_path)
    assert isinstance(loaded, VEDenoiser) and (loaded.sigma_min, loaded.sigma_max) == (0.02, 2696)
    x, sigma = wave((2, 3, 8, 8)), torch.tensor([0.5, 20.0])
    y, s = (x + 1) / 2, sigma / 2
    with torch.inference_mode():
        expected = 2 * (y + s.reshape(-1, 1, 1, 1) ** 2 * net(y, s).sample) - 1
        found = loaded(x, sigma)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


class Linear(torch.nn.Module):
    "Stands for UNet2DModel: the image times one number"

    def __init__(
        self, sample_size=8, in_channels=1, out_channels=1, down_block_types=(), time_embedding_type=''
    ):
        super().__init__()
        self.config = dict(sample_size=sample_size, in_channels=in_channels, out_channels=out_channels)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, sample, timestep, class_labels=None):
        return types.SimpleNamespace(sample=self.weight * sample)


def write(folder, scheduler, **config):
    put(
        folder / 'config.json',
        _class_name='UNet2DModel',
        sample_size=8,
        in_channels=1,
        out_channels=1,
        **config,
    )
    put(folder / 'scheduler_config.json', **scheduler)
    torch.save({'weight': torch.tensor(2.0)}, folder / 'diffusion_pytorch_model.bin')
    return folder


def test_the_route_without_the_package(tmp_path, monkeypatch):
    folder = write(tmp_path / 'm', {}, down_block_types=['SkipDownBlock2D'], new_option=3)
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(
        ValueError, match=r"UNet2DModel is built by diffusers: pip install 'difflow-lab\[hub\]'"
    ):
        load_denoiser(folder)
    fake = types.ModuleType('diffusers')
    fake.UNet2DModel = Linear
    monkeypatch.setitem(sys.modules, 'diffusers', fake)
    x = wave((2, 1, 8, 8))
    loaded = load_denoiser(folder)
    torch.testing.assert_close(loaded.net(x, torch.tensor(3.0)), 2 * x)
    assert loaded.card['without effect'] == {'new_option': 3} and json.dumps(describe(folder))
    edm = dict(_class_name='EDMEulerScheduler', prediction_type='v_prediction', sigma_data=0.5)
    loaded = load_denoiser(write(tmp_path / 'e', edm))
    assert isinstance(loaded, EDMDenoiser)
    total = 1.5**2 + 0.25
    torch.testing.assert_close(loaded(x, 1.5), x * (0.25 / total - 2 * 1.5 * 0.5 / total))


def test_classes_that_are_not_wrapped(tmp_path):
    for name in ('ControlNetModel', 'PixArtTransformer2DModel', 'UNet3DConditionModel', ['UNet2DModel']):
        put(tmp_path / 'config.json', _class_name=name)
        torch.save({'weight': torch.ones(2)}, tmp_path / 'diffusion_pytorch_model.bin')
        with pytest.raises(ValueError, match='class_name must be one of UNet2DModel'):
            load_denoiser(tmp_path)
