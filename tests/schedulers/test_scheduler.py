"""Schedulers: published numbers, EDM's discretisations, properties, bad input."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from difflow import Scheduler
from difflow.schedulers import space_timesteps
from difflow.schedulers.scheduler import _KINDS
from golden import EDM_LEVELS, FIXTURES, wave

sixty_examples = settings(deadline=None, max_examples=60)
KIND_NAMES = [kind for kind in _KINDS if not kind.startswith('from_')]
EACH = [getattr(Scheduler, kind)() for kind in KIND_NAMES] + [
    Scheduler.karras(1),
    Scheduler.cosine(1),
    Scheduler.linear(21),
    Scheduler.iddpm(18),
    Scheduler.vp(30, 0.01, 90.0),
    Scheduler.linear().respace('250'),
    Scheduler.cosine().respace('ddim50'),
    Scheduler.linear().respace('1'),
    Scheduler.from_betas([0.01, 0.3, 0.1]),
    Scheduler.from_betas(np.linspace(1e-4, 0.02, 50), zero_terminal_snr=True),
    Scheduler.from_sigmas([0.1, 0.7, 3.0]),
]


def test_minimal_diffusion_numbers():
    s = Scheduler.cosine(1000)
    np.testing.assert_allclose(s.betas[[0, 500, 999]], [4.128422e-5, 3.155692e-3, 0.999], rtol=1e-6)
    np.testing.assert_allclose(
        s.alphas_cumprod[[0, 500, 998, 999]], [0.99995869, 0.49228516, 2.428767e-6, 2.428767e-9], rtol=1e-6
    )
    np.testing.assert_allclose(s.posterior_log_variance_clipped[:2].exp(), 2.178950e-5, rtol=1e-6)


def test_linear_as_published():
    s = Scheduler.linear(1000)
    assert np.array_equal(s.betas, np.linspace(0.0001, 0.02, 1000))
    assert np.array_equal(s.alphas_cumprod, np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)))
    assert s.betas.dtype == s.alphas_cumprod.dtype == s.sigmas.dtype == torch.float64
    np.testing.assert_allclose(Scheduler.linear(100).betas[[0, -1]], [0.001, 0.2], rtol=1e-12)


def test_karras_as_published():
    published = [*EDM_LEVELS, 0]
    np.testing.assert_allclose(Scheduler.karras().walk(), published, rtol=1e-4, atol=6e-5)
    assert Scheduler.karras(1).walk() == [
        pytest.approx(80, rel=1e-14),
        0.0,
    ]  # (80 ** (1 / 7)) ** 7 is rounded


@pytest.mark.parametrize('n', [2, 18, 32, 64, 1000])
def test_edm_discretisations(n):
    "EDM lists the levels from the noisiest; its formulas, written in its order."
    i = np.arange(n)
    t = 1 + i / (n - 1) * (1e-3 - 1)
    sigmas = np.sqrt(np.exp(9.95 * t**2 + 0.1 * t) - 1)
    np.testing.assert_allclose(Scheduler.vp(n).walk()[:-1], sigmas, rtol=1e-8)
    variances = 100**2 * (0.02**2 / 100**2) ** (i / (n - 1))
    np.testing.assert_allclose(Scheduler.ve(n).walk()[:-1], np.sqrt(variances), rtol=1e-10)
    abar = lambda j: math.sin(0.5 * math.pi * j / 1000 / 1.008) ** 2
    u = [0.0]
    for j in range(1000, 0, -1):
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(abar(j - 1) / abar(j), 0.001) - 1))
    u = [x for x in u if 0.002 <= x <= (81 if n < 1000 else math.inf)]
    picked = [u[round((len(u) - 1) / (n - 1) * k)] for k in range(n)]
    np.testing.assert_allclose(Scheduler.iddpm(n).walk()[:-1], picked, rtol=1e-10)


def test_iddpm_ends():
    s = Scheduler.iddpm()
    np.testing.assert_allclose([s.sigmas[0], s.sigmas[-1]], [0.00642234, 20291.17], rtol=1e-3)
    assert len(Scheduler.iddpm(992)) == 992 and Scheduler.iddpm(992).sigmas[-1] < 81
    with pytest.raises(ValueError, match=r'1\.\.992, got 993'):
        Scheduler.iddpm(993)


def test_q_sample_parity():
    s = Scheduler.linear(1000).respace('250')
    x0, noise = 0.9 * wave((4, 3, 8, 8), 0.05), 1.2 * wave((4, 3, 8, 8), 0.9, 2.0)
    published = np.load(FIXTURES / 'guided_diffusion.npz')['lin250_q']
    found = s.q_sample(x0, torch.tensor([0, 1, 125, 249]), noise)
    assert found.dtype == torch.float32 and np.abs(found.numpy() - published).max() < 1e-6
    for row, t in enumerate((0, 1, 125, 249)):
        assert torch.equal(s.q_sample(x0[row : row + 1], t, noise[row : row + 1])[0], found[row])
        assert torch.equal(s.q_sample(x0, torch.tensor([t]), noise)[row], found[row])
        assert torch.equal(s.q_sample(x0, torch.tensor(t, dtype=torch.int32), noise)[row], found[row])


@pytest.mark.parametrize(
    'x0, t, noise, message',
    [
        ((2, 3), 3, (2, 3), r't must be an integer in 0\.\.2, got 3'),
        ((2, 3), -1, (2, 3), 'got -1'),
        ((2, 3), 0, (2, 1), 'noise must'),
        ((2, 3), torch.tensor([0, 1, 2]), (2, 3), r'\(2,\) int64'),
        ((2, 3), torch.tensor([0, 3]), (2, 3), r'\[0, 3\]'),
        ((2, 3), 1.0, (2, 3), 't must be an integer in 0..2, got 1.0'),
        ((2, 3), True, (2, 3), 't must be an integer in 0..2, got True'),
    ],
)
def test_q_sample_refuses(x0, t, noise, message):
    with pytest.raises(ValueError, match=message):
        EACH[-1].q_sample(torch.zeros(x0), t, torch.zeros(noise))


@pytest.mark.parametrize('s', EACH, ids=str)
def test_invariants(s):
    assert (s.sigmas.diff() > 0).all() and (s.sigmas > 0).all() and (s.alphas_cumprod.diff() < 0).all()
    torch.testing.assert_close(s.alphas_cumprod, 1 / (1 + s.sigmas**2), rtol=1e-12, atol=0)
    previous = torch.cat([torch.ones(1).double(), s.alphas_cumprod[:-1]])
    torch.testing.assert_close(s.betas, 1 - s.alphas_cumprod / previous, rtol=1e-8, atol=1e-15)
    assert len(s) == len(s.betas) == len(s.timesteps) == len(s.walk()) - 1 and s.walk()[-1] == 0.0
    assert s.walk() == sorted(s.walk(), reverse=True) and all(type(sigma) is float for sigma in s.walk())
    torch.testing.assert_close(s.snr_db, -20 * s.sigmas.log10())
    torch.testing.assert_close(s.snr, s.alphas_cumprod / (1 - s.alphas_cumprod))
    assert s.posterior_variance[0] == 0 and s.posterior_log_variance_clipped.isfinite().all()
    assert torch.equal(s.posterior_log_variance_clipped[1:], s.posterior_variance[1:].log())


@pytest.mark.parametrize('s', EACH, ids=str)
def test_grid_is_exact(s):
    t = s.timesteps.double()
    assert torch.equal(s.timestep(s.sigmas), t) and torch.equal(s.timestep(s.sigmas.float()), t.float())
    assert torch.equal(s.sigma_at(t), s.sigmas)
    for sigma, want in zip(s.sigmas.float().tolist(), t.tolist()):
        assert s.timestep(sigma) == want
    low, high = s.timestep(1e-12), s.timestep(1e12)
    assert (low, high) == (0.0, len(s.levels) - 1) and type(low) is float
    assert s.timestep(torch.full((2, 3), 1e12)).shape == (2, 3)


@pytest.mark.parametrize('s', EACH, ids=str)
def test_round_trip(s):
    back = Scheduler.from_dict(json.loads(json.dumps(s.to_dict())))
    assert back == s and hash(back) == hash(s)
    for field in ('sigmas', 'betas', 'alphas_cumprod', 'timesteps', 'levels'):
        assert torch.equal(getattr(back, field), getattr(s, field))


@sixty_examples
@given(st.sampled_from(KIND_NAMES), st.floats(0, 1), st.floats(1e-3, 0.999))
def test_timestep_is_linear_in_log_sigma(kind, where, part):
    s = getattr(Scheduler, kind)(24)
    t = min(int(where * 23), 22)
    sigma = math.exp((1 - part) * math.log(s.sigmas[t]) + part * math.log(s.sigmas[t + 1]))
    assert s.timestep(sigma) == pytest.approx(t + part, abs=1e-5)
    assert s.sigma_at(s.timestep(sigma)) == pytest.approx(sigma, rel=1e-6)


@sixty_examples
@given(st.sampled_from(KIND_NAMES), st.integers(21, 300), st.data())
def test_respacing_properties(kind, n, data):
    s = getattr(Scheduler, kind)(n)
    count = data.draw(st.integers(1, n))
    once = s.respace(count)
    assert len(once) == count and once.timesteps.tolist() == space_timesteps(n, count)
    assert torch.equal(once.alphas_cumprod, s.alphas_cumprod[once.timesteps])
    product = (1 - once.betas).cumprod(0)  # 1 - beta is known to the last bit of 1, not of itself
    error = torch.finfo(torch.float64).eps * (1 / (1 - once.betas)).cumsum(0)
    assert ((product / once.alphas_cumprod - 1).abs() <= error).all()
    twice = once.respace(data.draw(st.integers(1, count)))
    assert set(twice.timesteps.tolist()) <= set(once.timesteps.tolist())
    assert torch.equal(twice.timestep(twice.sigmas), twice.timesteps.double())
    assert s.respace('').sigmas.equal(s.sigmas)


@sixty_examples
@given(st.integers(1, 200), st.floats(1e-3, 1), st.floats(1.1, 1e4), st.floats(0.5, 20))
def test_karras_properties(n, low, ratio, rho):
    s = Scheduler.karras(n, low, low * ratio, rho)
    assert s.sigmas[-1] == pytest.approx(low * ratio) and (n == 1 or s.sigmas[0] == pytest.approx(low))
    roots = s.sigmas ** (1 / rho)
    assume(n > 2)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(n - 1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: Scheduler.linear(20), r'n must be an integer in 21\.\.1000000, got 20'),
        (lambda: Scheduler.cosine(0), 'got 0'),
        (lambda: Scheduler.cosine(2.0), 'got 2.0'),
        (lambda: Scheduler.cosine(True), 'got True'),
        (lambda: Scheduler.cosine('9'), "got '9'"),
        (lambda: Scheduler.ve(10**6 + 1), '1000001'),
        (lambda: Scheduler.karras(18, 0), 'sigma_min must be a number > 0, got 0'),
        (lambda: Scheduler.karras(18, 1, 1), 'sigma_max must be a number > 1, got 1'),
        (lambda: Scheduler.karras(18, math.nan), 'nan'),
        (lambda: Scheduler.karras(rho=-1), 'rho must be .* got -1'),
        (lambda: Scheduler.ve(5, 1, math.inf), 'inf'),
        (lambda: Scheduler.vp(5, epsilon_s=0), 'epsilon_s .* got 0'),
        (lambda: Scheduler.vp(5, 3, 4), 'no VP schedule'),
        (lambda: Scheduler.iddpm(5, sigma_min=1e9), 'none of 1000'),
        (lambda: Scheduler.iddpm(5, C_1=0), 'C_1'),
        (lambda: Scheduler.from_sigmas([]), 'got 0'),
        (lambda: Scheduler.from_sigmas([1, 1]), 'ascend'),
        (lambda: Scheduler.from_sigmas([0, 1]), 'sigmas must be a number > 0, got 0'),
        (lambda: Scheduler.from_sigmas([1, math.nan]), 'sigmas must be a number > 0, got nan'),
        (lambda: Scheduler.from_sigmas([1, math.inf]), 'sigmas must be a number > 0, got inf'),
        (lambda: EACH[0].timestep(0), r'sigma must be > 0, got 0'),
        (lambda: EACH[0].timestep(math.nan), 'nan'),
        (lambda: EACH[0].timestep(torch.tensor([1, -1])), 'got'),
        (lambda: EACH[0].sigma_at(-0.5), r'0\.\.999, got -0.5'),
        (lambda: EACH[0].sigma_at(torch.tensor([1000.0])), '1000'),
        (lambda: Scheduler.from_dict({}), 'linear, cosine'),
        (lambda: Scheduler.from_dict({'name': '__init__'}), '__init__'),
        (lambda: Scheduler.from_dict({'name': 'respace'}), 'must be one of'),
        (lambda: Scheduler.from_dict({'name': 'linear', 'options': {'k': 1}}), "'linear' does not take"),
        (
            lambda: Scheduler.from_dict({'name': 'karras', 'options': {'rho': 'x'}}),
            'rho must be a number > 0',
        ),
        (lambda: Scheduler.from_dict({'name': 'linear', 'options': None}), "'linear' does not take"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scheduler_does_not_change():
    with pytest.raises(AttributeError):
        EACH[0].sigmas = None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_on_cuda():
    s, x0 = Scheduler.linear().respace('250'), wave((4, 3, 8, 8)).cuda()
    t = torch.tensor([0, 1, 125, 249]).cuda()
    assert torch.equal(s.timestep(s.sigmas.cuda()).cpu(), s.timesteps.double())
    assert torch.equal(s.timestep(s.sigmas.float().cuda()).cpu(), s.timesteps.float())
    assert s.sigma_at(s.timesteps.double().cuda()).device.type == 'cuda'
    torch.testing.assert_close(s.q_sample(x0, t, x0).cpu(), s.q_sample(x0.cpu(), t.cpu(), x0.cpu()))


def test_betas_of_anybody():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    for many in (betas, betas.tolist(), torch.from_numpy(betas)):
        s = Scheduler.from_betas(many)
        assert np.array_equal(s.betas, betas) and np.array_equal(s.alphas_cumprod, np.cumprod(1 - betas))
    ours = Scheduler.from_betas(Scheduler.linear().betas)
    assert torch.equal(ours.sigmas, Scheduler.linear().sigmas)


def test_no_signal_at_the_last_level():
    diffusers = pytest.importorskip('diffusers')
    for options in (
        dict(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear'),
        dict(beta_start=0.001, beta_end=0.2, beta_schedule='linear', num_train_timesteps=100),
    ):
        plain = diffusers.EulerDiscreteScheduler(**options)
        theirs = diffusers.EulerDiscreteScheduler(**options, rescale_betas_zero_snr=True)
        s = Scheduler.from_betas(plain.betas, zero_terminal_snr=True)
        torch.testing.assert_close(s.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-3, atol=1e-8)
        assert s.sigmas[-1].item() == pytest.approx(4096, rel=1e-6)
        assert torch.equal(s.timesteps[-1], torch.tensor(len(s) - 1))
        by_itself = Scheduler.from_betas(
            diffusers.DDIMScheduler(**options, rescale_betas_zero_snr=True).betas
        )
        torch.testing.assert_close(by_itself.sigmas, s.sigmas, rtol=2e-3, atol=1e-6)
