"""Whatever this library writes, it reads: every network, bare, exported and saved; and live ones."""

import pytest
import torch

from difflow import (
    DDPMDenoiser,
    DhariwalUNet,
    DiffusersUNet,
    EDMDenoiser,
    Scheduler,
    SongUNet,
    UNet,
    VPDenoiser,
    export,
    load_denoiser,
    save,
)
from difflow.networks import DiT, EDM2UNet, LucidUNet

EDM = dict(
    img_resolution=16,
    in_channels=3,
    out_channels=3,
    model_channels=32,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
)
NCSNPP = dict(
    embedding_type='fourier', encoder_type='residual', channel_mult_noise=2, resample_filter=[1, 3, 3, 1]
)
STAGES = dict(
    sample_size=16,
    block_out_channels=[32, 32],
    down_block_types=['DownBlock2D', 'AttnDownBlock2D'],
    up_block_types=['AttnUpBlock2D', 'UpBlock2D'],
    layers_per_block=1,
)
NETWORKS = {
    'DDPM++': lambda: SongUNet(**EDM),
    'DDPM++ of classes': lambda: SongUNet(**EDM, label_dim=4, augment_dim=9),
    'NCSN++': lambda: SongUNet(**EDM, **NCSNPP),
    'skips': lambda: SongUNet(**EDM, encoder_type='skip', decoder_type='skip'),
    'three levels': lambda: SongUNet(**EDM | dict(channel_mult=[1, 1, 2], num_blocks=2)),
    'ADM': lambda: DhariwalUNet(**EDM | dict(model_channels=64, label_dim=3)),
    'diffusers': lambda: DiffusersUNet(**STAGES),
    'guided': lambda: UNet(16, 3, 32, 3, 1, (8,), (1, 2), num_heads=2),
    'lucid': lambda: LucidUNet(dim=16, dim_mults=(1, 2), channels=3, image_size=16),
    'EDM2': lambda: EDM2UNet(16, 3, 0, model_channels=32, channel_mult=(1, 2), num_blocks=1),
    'DiT': lambda: DiT(16, 2, 3, 32, 2, 2, num_classes=4),
}
HIDDEN = {
    'diffusers': dict(config=DiffusersUNet(**STAGES).config),
    'guided': dict(image_size=16, num_heads=2, use_new_attention_order=False),
    'lucid': dict(image_size=16),
    'DiT': dict(num_heads=2),
}


@pytest.mark.filterwarnings('ignore:.*the file does not say it')
@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('how', ['state dict', 'export', 'save'])
def test_what_is_written_is_read(name, how, tmp_path):
    torch.manual_seed(0)
    denoiser, path = EDMDenoiser(NETWORKS[name](), sigma_data=0.3), tmp_path / 'w.safetensors'
    if how == 'state dict':
        torch.save(denoiser.state_dict(), path)
    else:
        {'export': export, 'save': save}[how](denoiser, path)
    given = {} if how == 'save' else HIDDEN.get(name, {}) | dict(prediction='edm', sigma_data=0.3)
    if given:
        with pytest.raises(ValueError, match='give .*(prediction=|config=|num_heads=|image_size=)'):
            load_denoiser(path)
    loaded = load_denoiser(path, **given)
    assert type(loaded) is EDMDenoiser and loaded.sigma_data == 0.3
    found, wanted = loaded.net.state_dict(), denoiser.net.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 4.0])
    labels = torch.tensor([0, 2]) if loaded.num_classes else None
    with torch.inference_mode():
        assert torch.equal(loaded(x, sigma, labels), denoiser.eval()(x, sigma, labels))


def test_a_bare_network_of_edm_in_any_preconditioning(tmp_path):
    net = SongUNet(**EDM)
    torch.save({'ema': net.state_dict(), 'kimg': 5}, tmp_path / 'w.pt')
    loaded = load_denoiser(tmp_path / 'w.pt', prediction='vp', beta_d=15.0)
    assert type(loaded) is VPDenoiser and loaded.beta_d == 15 and loaded.card['weights'] == 'ema (averaged)'
    loaded = load_denoiser(tmp_path / 'w.pt', prediction='v', schedule='cosine', dropout=0.2)
    assert type(loaded) is DDPMDenoiser and loaded.prediction == 'v' and loaded.net.config['dropout'] == 0.2
    for given, message in [
        (dict(prediction='noise'), "prediction must be one of .* got 'noise'"),
        (dict(prediction='v'), 'give schedule=$'),
        (dict(prediction='edm', banana=1), "unknown argument 'banana'"),
        (dict(prediction='edm', channel_mult=[1, 1]), 'do not fit this SongUNet'),
    ]:
        with pytest.raises(ValueError, match=message):
            load_denoiser(tmp_path / 'w.pt', **given)


def test_networks_that_are_there(tmp_path):
    torch.manual_seed(0)
    net, grid, x = torch.nn.Conv2d(3, 3, 1), Scheduler.linear(50), torch.randn(2, 3, 4, 4)

    def asked(x, t):
        return net(x) * t[:, None, None, None]

    loaded = load_denoiser(asked, prediction='eps', scheduler=grid, image_shape=(3, 4, 4))
    sigma = grid.sigmas[7].item()
    expected = x - sigma * 7 * net(x / (1 + sigma**2) ** 0.5)
    torch.testing.assert_close(loaded(x, sigma), expected)
    with pytest.raises(ValueError, match='prediction'):
        load_denoiser(asked, scheduler=grid)
