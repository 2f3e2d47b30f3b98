"""The digest of a model: all that changes an image, and nothing else."""

import torch

from difflow import DDPMDenoiser, EDMDenoiser, UNet, load_denoiser, save
from difflow.runs import model_hash


def net(**options):
    return UNet(
        8, 1, 32, 1, num_res_blocks=1, channel_mult=(1,), **({'attention_resolutions': (8,)} | options)
    )


class Wrapped(torch.nn.Module):
    "What torch.compile makes of a network, as far as its names go"

    def __init__(self, net):
        super().__init__()
        self._orig_mod = net


def test_model_hash_is_of_all_that_changes_an_image(tmp_path):
    torch.manual_seed(0)
    one = EDMDenoiser(net())
    again = load_denoiser(save(one, tmp_path / 'model.safetensors'))
    assert model_hash(one) == model_hash(again)
    compiled = EDMDenoiser(net())
    compiled.net.load_state_dict(one.net.state_dict())
    compiled.net = Wrapped(compiled.net)
    assert model_hash(compiled) == model_hash(one)
    heads = EDMDenoiser(net(num_heads=2))
    heads.net.load_state_dict(one.net.state_dict())
    others = [
        heads,
        EDMDenoiser(one.net, sigma_data=0.4),
        DDPMDenoiser(one.net),
        DDPMDenoiser(one.net, prediction='v'),
    ]
    with torch.no_grad():
        again.net.out[2].bias += 1e-7
    hashes = [model_hash(d) for d in [one, again, *others]]
    assert len(set(hashes)) == 6 and all(len(h) == 16 for h in hashes)
