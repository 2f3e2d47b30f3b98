"""EDM's four preconditioners: published outputs, ranges, rounding, and what is handed to the network."""

import math

import numpy as np
import pytest
import torch

from difflow import DDPMDenoiser, EDMDenoiser, IDDPMDenoiser, SongUNet, VEDenoiser, VPDenoiser
from difflow.networks import edm_network
from edm_networks import TINY, ramp, table_network
from golden import FIXTURES, fill, wave

GOLDEN = np.load(FIXTURES / 'edm.npz')
KINDS = EDMDenoiser, VPDenoiser, VEDenoiser, IDDPMDenoiser
tiny = lambda **options: SongUNet(**TINY | dict(dropout=0.0) | options)


@pytest.mark.parametrize('name, kind', [('precond_vp', VPDenoiser), ('precond_edm', EDMDenoiser)])
def test_published_outputs(name, kind):
    denoiser = kind(fill(tiny(), keep=['resample_filter']))
    with torch.inference_mode():
        out = denoiser(2 * wave((2, 3, 16, 16)), torch.tensor([0.05, 3.0]))
    torch.testing.assert_close(out.double(), torch.from_numpy(GOLDEN[name]).double(), atol=1e-4, rtol=0)


TABLE = dict(  # sum, sum of magnitudes, first three, last
    A=(VPDenoiser, 689.4682, 1334.9345, [0.92243, 0.85639, 0.87754], -0.39673),
    B=(VEDenoiser, -1122.2387, 1578.4974, [1.15748, 1.20828, 1.20267], -2.06330),
    C=(EDMDenoiser, 1173.2722, 1370.5917, [1.14123, 1.43317, 1.59581], -0.09259),
    D=(EDMDenoiser, -2908.6798, 2908.6798, [-0.15181, -0.65992, -0.65539], -0.23013),
    E=(IDDPMDenoiser, 12129.0307, 12129.0307, [1.98176, 2.73707, 2.72775], 0.21610),
    F=(EDMDenoiser, 114.1400, 308.9674, [0.49455, 0.50532, 0.50259], -0.03702),
    G=(EDMDenoiser, -2042.5034, 2089.8458, [0.94369, 0.91395, 0.96771], -1.38955),
)


@pytest.mark.parametrize('row', TABLE)
def test_table_of_seven_networks(row):
    kind, total, size, first, last = TABLE[row]
    denoiser, labels = kind(table_network(row)[0]), torch.tensor([3, 7]) if row in 'FG' else None
    with torch.inference_mode():
        out = denoiser(ramp(2, 3, 16, 16).float(), torch.tensor([0.5, 3.0]), labels)
    assert out.flatten()[:3].tolist() == pytest.approx(first, abs=1e-4)
    assert out.flatten()[-1].item() == pytest.approx(last, abs=1e-4)
    assert out.sum().item() == pytest.approx(total, abs=1e-5 * size)
    assert out.abs().sum().item() == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize(
    'kind, low, high',
    [
        (VPDenoiser, 0.0009765625, 152.16698),
        (VEDenoiser, 0.02, 100.0),
        (IDDPMDenoiser, 0.00642234, 20291.17),
        (EDMDenoiser, 0.0, math.inf),
    ],
)
def test_published_ranges(kind, low, high):
    denoiser = kind(tiny())
    assert denoiser.sigma_min == pytest.approx(low, rel=1e-6) and denoiser.sigma_max == pytest.approx(
        high, rel=1e-6
    )
    levels = torch.tensor([0.03, 0.7, 90.0], dtype=torch.float64)
    if kind is not IDDPMDenoiser:
        assert torch.equal(denoiser.round_sigma(levels), levels)


def test_rounding_finds_the_nearest_level_by_brute_force():
    denoiser = IDDPMDenoiser(tiny())
    levels = torch.rand(300, dtype=torch.float64).mul(16).sub(7).exp()
    by_hand = torch.stack([denoiser.u[(denoiser.u - s).abs().argmin()] for s in levels.float()])
    assert torch.equal(denoiser.round_sigma(levels).float(), by_hand)
    assert denoiser.round_sigma(levels[0].item()) == by_hand[0].item()
    labels = denoiser.coefficients(denoiser.u[:-1].double())[3]
    assert torch.equal(labels, torch.arange(999, -1, -1).double())  # the noisiest level has the label M - 1


def test_chain_is_that_of_its_definition():
    denoiser, C_2 = IDDPMDenoiser(tiny(), M=50), 0.008
    abar = torch.sin(math.pi / 2 * torch.arange(51, dtype=torch.float64) / 50 / (1 + C_2)) ** 2
    u = denoiser.u.double()
    ratio = (1 + u[1:] ** 2) / (1 + u[:-1] ** 2)  # of neighbouring alphas_cumprod = 1 / (1 + u^2)
    torch.testing.assert_close(ratio, (abar[:-1] / abar[1:]).clamp(min=0.001), atol=1e-5, rtol=1e-3)
    assert len(denoiser.u) == 51 and u[-1] == 0 and 'u' in denoiser.state_dict()


@pytest.mark.parametrize('kind', KINDS)
def test_default_steps_are_in_range_and_on_the_levels(kind):
    denoiser = kind(tiny())
    for n in (1, 18, 500):
        sigmas = denoiser.steps(n).sigmas
        assert denoiser.sigma_min <= sigmas[0] * (1 + 1e-6) and sigmas[-1] <= min(denoiser.sigma_max, 85)
        assert torch.equal(denoiser.round_sigma(sigmas), sigmas) and len(sigmas) <= n


def test_exact_vp_is_the_limit_that_float32_misses():
    exact, published = VPDenoiser(tiny(), expm1=True), VPDenoiser(tiny())
    assert exact.sigma_min == pytest.approx(0.00100050, rel=1e-5) and published.sigma_min == 2.0**-10
    assert exact.options['expm1'] and not published.options['expm1']
    t = torch.linspace(0.05, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(exact.sigma_at(t), published.sigma_at(t), rtol=1e-5, atol=0)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('arch', ['ddpmpp', 'ncsnpp', 'adm'])
def test_any_network_in_any_denoiser(kind, arch):
    width = 64 if arch == 'adm' else 16
    net = edm_network(
        arch, 8, 1, model_channels=width, channel_mult=[1, 2], num_blocks=1, label_dim=4, augment_dim=9
    )
    denoiser = kind(net).eval()
    assert denoiser.image_shape == (1, 8, 8) and denoiser.num_classes == 4 and denoiser.null_class
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 3, 1])
    assert (
        denoiser(x, 0.5, labels).shape == x.shape
        and denoiser(x, torch.tensor([0.1, 1.0, 9.0])).shape == x.shape
    )
    with pytest.raises(ValueError, match=r'labels must be in 0..3, got 0..9'):
        denoiser(x, 0.5, torch.tensor([0, 9, 1]))


def test_augment_labels_reach_the_network():
    class Listening(torch.nn.Module):
        "A network that answers with the sum of the augmentation labels."

        def forward(self, x, c_noise, labels=None, augment_labels=None):
            total = torch.zeros(len(x)) if augment_labels is None else augment_labels.sum(1)
            return torch.ones_like(x) * total[:, None, None, None]

    x, augment = torch.zeros(2, 1, 4, 4), torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    denoiser = VEDenoiser(Listening())
    assert denoiser(x, 1.0, augment_labels=augment)[:, 0, 0, 0].tolist() == [3, 8]
    loss = denoiser.loss(x, None, torch.ones(2).double(), torch.zeros_like(x), augment_labels=augment)
    assert loss.tolist() == [9, 64]
    chain = DDPMDenoiser(Listening(), prediction='x0')
    assert chain(x, 1.0, augment_labels=augment)[:, 0, 0, 0].tolist() == [3, 8]
    sigma = chain.scheduler.sigmas[[400, 400]]
    assert chain.loss(x, None, sigma, torch.zeros_like(x), augment_labels=augment).tolist() == [9, 64]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(C_1=0.0), 'C_1 must be a number > 0 and < 1'),
        (dict(C_2=-1.0), 'C_2 must be a number > 0'),
        (dict(M=0), 'M must be an integer >= 1'),
    ],
)
def test_impossible_chains(options, message):
    with pytest.raises(ValueError, match=message):
        IDDPMDenoiser(tiny(), **options)
