"The U-Net of lucidrains against outputs of the library's own versions, and against the library itself."

import numpy as np
import pytest
import torch

from difflow.networks import LucidUNet
from golden import FIXTURES, fill, wave

SMALL = dict(dim=16, dim_mults=(1, 2), channels=1)
OPTIONS = {
    'learned': dict(learned_sinusoidal_cond=True, learned_variance=True),
    'selfcond': dict(self_condition=True),
    'heads': dict(full_attn=(True, False), attn_heads=(2, 3), attn_dim_head=(8, 4)),
    'init': dict(init_dim=24),
}
OUTPUTS = np.load(FIXTURES / 'lucidrains.npz')  # each by the code of that version, weights by `golden.fill`


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('name', OUTPUTS)
def test_outputs_are_those_of_the_version(name):
    version, *options = name.split()
    net = fill(LucidUNet(**SMALL, version=version, **OPTIONS[options[0]] if options else {}))
    with torch.inference_mode():
        out = net(wave((2, 1, 8, 8)), torch.tensor([3, 700]))
    assert difference(out, torch.from_numpy(OUTPUTS[name])) < 2e-5


def test_versions_that_no_name_tells_apart_answer_differently():
    for first, second in [
        ('0.22.0', '0.26.0'),
        ('0.26.0', '0.26.4'),
        ('0.26.5', '0.27.4'),
        ('0.27.4', '0.28.0'),
        ('1.7.1', '1.7.3'),
        ('1.7.3', '1.7.4'),
    ]:
        nets = [fill(LucidUNet(**SMALL, version=version)) for version in (first, second)]
        assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
        one, other = torch.from_numpy(OUTPUTS[first]), torch.from_numpy(OUTPUTS[second])
        assert difference(one, other) > 1e-4


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(dim_mults=(1, 2, 3), channels=3, dropout=0.1),
        dict(dim_mults=(2,), init_dim=24),
        dict(self_condition=True, full_attn=(True, False), attn_heads=2, attn_dim_head=(8, 16)),
        dict(learned_variance=True, random_fourier_features=True, learned_sinusoidal_dim=8),
        dict(sinusoidal_pos_emb_theta=500, out_dim=1),
    ],
)
def test_random_networks_of_the_library(options):
    library = pytest.importorskip('denoising_diffusion_pytorch')
    torch.manual_seed(1)
    theirs, ours = library.Unet(**SMALL | options).eval(), LucidUNet(**SMALL | options).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.2 * torch.randn_like(p))
    ours.load_state_dict(theirs.state_dict())
    x, t = torch.randn(3, theirs.channels, 16, 16), torch.tensor([0, 400, 999])
    with torch.no_grad():
        assert difference(ours(x, t), theirs(x, t)) < 1e-4
        assert difference(ours(x, t[1]), theirs(x, t[1].expand(3))) < 1e-4


def test_gradients_are_those_of_the_library():
    library = pytest.importorskip('denoising_diffusion_pytorch')
    theirs, ours = library.Unet(**SMALL), LucidUNet(**SMALL)
    ours.load_state_dict(theirs.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    for net in (ours, theirs):
        net(x, t).square().sum().backward()
    for name, p in theirs.named_parameters():
        assert torch.allclose(ours.get_parameter(name).grad, p.grad, rtol=1e-3, atol=1e-4), name


def test_an_image_does_not_see_the_others():
    net, x, t = fill(LucidUNet(**SMALL)), wave((5, 1, 16, 16)), torch.arange(5) * 200
    with torch.inference_mode():
        together = net(x, t)
        for i in range(5):
            assert torch.equal(net(x[i : i + 1], t[i]), together[i : i + 1])
