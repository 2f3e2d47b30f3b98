"""Any callable as a denoiser: how it is called, other libraries in and out, what is refused."""

import importlib.util
import inspect
import sys
import types
import warnings

import pytest
import torch
from torch import nn

import difflow as df
from difflow.denoisers import expand_like
from difflow.runs import model_hash

LEVELS = torch.tensor([0.05, 0.5, 2.0, 20.0], dtype=torch.float64)
GRID = df.Scheduler.linear(1000)


def exact():
    torch.manual_seed(0)
    factor = 0.3 * torch.randn(16, 16).double()
    return df.GaussianDenoiser(0.5 * torch.randn(1, 4, 4), factor @ factor.T)


def noisy(shape=(1, 4, 4)):
    x = df.normal((4, *shape)).double()
    return x + expand_like(LEVELS, x) * df.normal((4, *shape), 1)


class Network(nn.Module):
    "Keeps what it is given"

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x, t, y=None):
        self.given = x, t, y
        return self.scale * x


def test_the_module_is_the_network():
    network = Network()
    denoiser = df.wrap(network, 'eps', GRID, image_shape=(1, 4, 4), num_classes=3, null_class=True)
    assert denoiser.net is network and [*denoiser.parameters()] == [network.scale]
    assert type(denoiser) is df.DDPMDenoiser and denoiser.scheduler == GRID
    denoiser.loss(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])).sum().backward()
    assert network.scale.grad is not None and network.given[2].tolist() == [0, 1]
    denoiser(torch.zeros(2, 1, 4, 4), 1.0)
    assert network.given[2].tolist() == [3, 3]  # no class
    x = torch.zeros(1, 1, 4, 4)
    assert (
        df.jacobian_spectrum(df.wrap(Network(0.5), 'edm', image_shape=(1, 4, 4)), x, 1.0, 2).values.shape[1]
        == 2
    )
    plain = df.wrap(Network(), 'eps', GRID)
    assert plain.image_shape is None and plain.num_classes is None
    torch.testing.assert_close(plain(x + 1, 2.0), df.DDPMDenoiser(Network(), GRID)(x + 1, 2.0))


def test_half_precision():
    network = Network().half()
    answer = df.wrap(network, 'x0')(torch.ones(2, 1, 4, 4), 1.0)
    assert network.given[0].dtype == torch.float16 and answer.dtype == torch.float32


def test_fixed_arguments_are_part_of_the_model():
    class Conditional(nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states, class_labels=None, scale=1.0):
            self.given = encoder_hidden_states
            return [scale * sample + encoder_hidden_states.mean((1, 2)).reshape(-1, 1, 1, 1)]

    text = torch.randn(1, 7, 5)
    make = lambda text: df.wrap(Conditional(), 'x0', conditions=dict(encoder_hidden_states=text, scale=2.0))
    denoiser, x = make(text), torch.ones(3, 1, 4, 4)
    torch.testing.assert_close(denoiser(x, 1.0), 2 * x + text.mean())
    assert denoiser.net.given.shape == (3, 7, 5)
    assert model_hash(denoiser) == model_hash(make(text)) != model_hash(make(text + 1))
    assert denoiser.double().caller.of_encoder_hidden_states.dtype == torch.float64


def test_a_traced_module():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        inputs = dict(t=torch.ones(2), x=torch.ones(2, 1, 4, 4), y=torch.ones(2, dtype=torch.int64))

        class TimeFirst(nn.Module):
            def forward(self, t, x, y):
                return x * t.reshape(-1, 1, 1, 1) + y.reshape(-1, 1, 1, 1)

        traced = torch.jit.trace(TimeFirst(), tuple(inputs.values()))
    answer = df.wrap(traced, 'x0', num_classes=5)(torch.ones(2, 1, 4, 4), 3.0, torch.tensor([1, 2]))
    assert answer[:, 0, 0, 0].tolist() == [4.0, 5.0]


@pytest.mark.parametrize('codec', [None, (torch.neg, torch.neg)])
def test_a_denoiser_stays_what_it_is(codec):
    gaussian = exact()
    wrapped = df.wrap(gaussian, codec=codec)
    assert (wrapped is gaussian) if codec is None else (wrapped.denoiser is gaussian)
    with pytest.raises(ValueError, match='network is a denoiser already, prediction must not be given'):
        df.wrap(gaussian, 'x0')


def test_options_of_the_parametrisation():
    assert df.wrap(Network(), 'flow', reverse=True, time_scale=3.0).options['reverse']
    assert df.wrap(Network(), 'eps', GRID, variance='fixed_large').variance_type == 'fixed_large'
    with pytest.raises(ValueError, match="unknown argument 'reverse'.*rescale_timesteps"):
        df.wrap(Network(), 'eps', GRID, reverse=True)
    with pytest.raises(ValueError, match="unknown argument 'clip'"):
        df.wrap(Network(), 'x0', clip=True)


def test_models_of_diffusers():
    diffusers = pytest.importorskip('diffusers')
    torch.manual_seed(0)
    blocks = dict(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1)
    sides = dict(down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2)
    net = diffusers.UNet2DModel(8, 1, 1, num_class_embeds=3, **blocks, **sides).eval()
    scheduler = diffusers.DDIMScheduler(beta_schedule='scaled_linear', prediction_type='v_prediction')
    denoiser = df.wrap(net, 'v', scheduler)
    assert denoiser.image_shape == (1, 8, 8) and denoiser.num_classes == 3
    x, labels, t = df.normal((2, 1, 8, 8)), torch.tensor([0, 2]), 700
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        output = net(x, torch.tensor([t, t]), class_labels=labels).sample
        theirs = scheduler.step(output, t, x).pred_original_sample
        sigma = denoiser.scheduler.sigmas[t]
        ours = denoiser(x * (1 + sigma**2).sqrt().float(), sigma, labels).clamp(-1, 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    text = diffusers.UNet2DConditionModel(
        8, 4, 4, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), cross_attention_dim=8,
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'), attention_head_dim=2, **blocks)  # fmt: skip
    states = torch.randn(1, 5, 8)
    denoiser = df.wrap(text, 'eps', df.Scheduler.linear(), conditions=dict(encoder_hidden_states=states))
    x, sigma = df.normal((2, 4, 8, 8)), GRID.sigmas[500]
    with torch.no_grad():
        eps = text(x, torch.tensor([500, 500]), states.expand(2, -1, -1)).sample
        x = x * (1 + sigma**2).sqrt().float()
        torch.testing.assert_close(denoiser(x, sigma), x - sigma.float() * eps, rtol=1e-4, atol=1e-4)


def k_diffusion(monkeypatch):
    "Two modules of k-diffusion, without all that its package imports"
    spec = importlib.util.find_spec('k_diffusion')
    if spec is None:
        pytest.skip('k_diffusion is not installed')
    package = types.ModuleType('k_diffusion')
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, 'k_diffusion', package)
    return [pytest.importorskip(f'k_diffusion.{name}') for name in ('external', 'sampling')]


def test_k_diffusion_in_and_out(monkeypatch):
    external, sampling = k_diffusion(monkeypatch)
    gaussian = exact()

    def eps(x_vp, t, **conditions):
        sigma = GRID.sigma_at(t.double().clamp(0, 999))
        signal = expand_like(1 / (1 + sigma**2).sqrt(), x_vp)
        return (x_vp - signal * gaussian(x_vp / signal, sigma)) / expand_like(
            sigma / (1 + sigma**2).sqrt(), x_vp
        )

    class Theirs(external.DiscreteEpsDDPMDenoiser):
        def get_eps(self, *arguments, **named):
            return self.inner_model(*arguments, **named)

    theirs = Theirs(eps, GRID.alphas_cumprod.float(), quantize=False)
    ours = df.wrap(theirs, 'x0', image_shape=(1, 4, 4))
    x = noisy().float()
    torch.testing.assert_close(ours(x, LEVELS), gaussian(x, LEVELS), rtol=1e-3, atol=1e-3)
    assert ours.sigma_min == pytest.approx(GRID.sigmas[0].item(), rel=1e-3)
    sigmas = torch.tensor(df.Scheduler.karras(10).walk())
    start = 80 * df.normal((4, 1, 4, 4))
    for name in ('heun', 'euler', 'dpmpp_2m'):
        walked = getattr(sampling, f'sample_{name}')(gaussian, start, sigmas, disable=True)
        mine = df.sample(gaussian, start, name, scheduler=df.Scheduler.karras(10), progress=False)
        torch.testing.assert_close(walked, mine, rtol=1e-4, atol=1e-4)


def test_azula_in_and_out():
    denoise, noise = pytest.importorskip('azula.denoise'), pytest.importorskip('azula.noise')
    sample = pytest.importorskip('azula.sample')
    gaussian = exact()

    class Theirs(denoise.Denoiser):
        "How azula takes ours: a posterior whose mean is D."

        def __init__(self, schedule):
            super().__init__()
            self.schedule, self.denoiser = schedule, gaussian

        def forward(self, x_t, t, **conditions):
            alpha, sigma = (a.double() for a in self.schedule(t.double()))
            return denoise.DiracPosterior(self.denoiser(x_t / expand_like(alpha, x_t), sigma / alpha))

    for schedule in (
        noise.VPSchedule(),
        noise.VESchedule(),
        noise.CosineSchedule(),
        noise.RectifiedSchedule(),
    ):
        theirs = Theirs(schedule)
        ours = df.wrap(theirs, image_shape=(1, 4, 4))
        x = noisy()
        torch.testing.assert_close(ours(x, LEVELS), gaussian(x, LEVELS), rtol=1e-5, atol=1e-4)
    sampler = sample.DDIMSampler(Theirs(noise.VESchedule(1e-3, 80)), steps=200, silent=True)
    start = 80 * df.normal((4, 1, 4, 4)).double()
    grid = df.Scheduler.ve(200, 1e-3 * (80 / 1e-3) ** (1 / 200), 80.0)
    mine = df.sample(gaussian, start.float(), 'ddim', scheduler=grid, progress=False)
    torch.testing.assert_close(sampler(start).float(), mine, rtol=0, atol=5e-3)


def test_signature_of_wrap():
    names = list(inspect.signature(df.wrap).parameters)[:6]
    assert names == ['network', 'prediction', 'scheduler', 'image_shape', 'num_classes', 'codec']
