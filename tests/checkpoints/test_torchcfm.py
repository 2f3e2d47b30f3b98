"""torchcfm: a velocity, in time that runs to the data; known by its trainer, asked of bare weights."""

import numpy as np
import pytest
import torch

from difflow import UNet, load_denoiser
from difflow.checkpoints import describe
from golden import FIXTURES, fill, wave

TOLD = dict(image_size=8, num_head_channels=16)
X, SIGMA = wave((2, 1, 8, 8)), torch.tensor([0.5, 9.0])


@pytest.fixture(scope='module')
def net():
    small = dict(num_head_channels=16, use_scale_shift_norm=False)
    return fill(UNet(8, 1, 32, 1, 1, (4,), (1, 2), **small))


def write(path, net, prefix=''):
    ema = {f'{prefix}{name}': tensor for name, tensor in net.state_dict().items()}
    raw = {name: tensor + 1 for name, tensor in ema.items()}
    schedule = {'base_lrs': [2e-4], 'last_epoch': 5, '_step_count': 6, 'lr_lambdas': [None]}
    optim = {'state': {0: {'step': torch.tensor(5.0)}}, 'param_groups': [{'lr': 2e-4, 'params': [0]}]}
    content = {'net_model': raw, 'ema_model': ema, 'sched': schedule, 'optim': optim, 'step': 5}
    torch.save(content, path)
    return path


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_numbers_are_those_of_its_own_network(prefix, net, tmp_path):
    denoiser = load_denoiser(write(tmp_path / 'otcfm_cifar10_weights_step_5.pt', net, prefix), **TOLD)
    expected = torch.from_numpy(np.load(FIXTURES / 'other_trainers.npz')['torchcfm'])
    with torch.inference_mode():
        assert (denoiser(X, SIGMA) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert denoiser.card['model'] == 'torchcfm' and denoiser.card['weights'].startswith('ema_model')
    assert 'net_model' in denoiser.card['weights'] and 'straight line' in denoiser.assumed['path']
    assert 'prediction' not in denoiser.assumed and 'reverse' not in denoiser.assumed


def test_the_real_wrapper_answers_alike(net):
    unet = pytest.importorskip('torchcfm.models.unet.unet', reason="pip install 'difflow-lab[peers]'")
    options = dict(channel_mult=(1, 2), attention_resolutions='4', num_heads=4, num_head_channels=16)
    real = unet.UNetModelWrapper((1, 8, 8), 32, 1, **options).eval()
    real.load_state_dict(net.state_dict())
    with torch.inference_mode():
        expected = real(torch.tensor([0.1, 0.7]), X)
        assert (net(X, torch.tensor([0.1, 0.7])) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_bare_weights_are_asked(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / 'bare.pt')
    told = TOLD | dict(use_new_attention_order=False)
    with pytest.raises(ValueError, match='prediction='):
        load_denoiser(tmp_path / 'bare.pt', **told)
    whole = load_denoiser(write(tmp_path / 'whole.pt', net), **TOLD)
    bare = load_denoiser(tmp_path / 'bare.pt', prediction='flow', reverse=True, **told)
    onwards = load_denoiser(tmp_path / 'bare.pt', prediction='flow', **told)
    with torch.inference_mode():
        assert torch.equal(whole(X, SIGMA), bare(X, SIGMA)) and not torch.equal(
            bare(X, SIGMA), onwards(X, SIGMA)
        )


def test_raw_weights_are_had_by_key_and_contradictions_refused(net, tmp_path):
    path = write(tmp_path / 'w.pt', net)
    raw = load_denoiser(path, key='net_model', **TOLD)
    assert torch.equal(raw.net.state_dict()['out.2.bias'], net.state_dict()['out.2.bias'] + 1)
    assert raw.card['weights'].startswith('net_model')
    for wrong in (dict(prediction='eps'), dict(reverse=False)):
        with pytest.raises(ValueError, match='in a file of torchcfm'):
            load_denoiser(path, **TOLD | wrong)
    assert 'image_size=' in describe(path)['missing']


def test_its_cifar10_network_needs_nothing(tmp_path):
    from difflow.checkpoints.formats import _Candidate
    from difflow.checkpoints.torchcfm import _plan_torchcfm

    with torch.device('meta'):
        net = UNet(32, 3, 128, 3, 2, (16,), num_head_channels=64, use_scale_shift_norm=False)
    facts = dict(beside={}, tree={})
    plan = _plan_torchcfm(_Candidate('ema_model', net.state_dict(), facts, True), {})
    assert plan.missing == [] and plan.card['model'] == 'torchcfm CIFAR-10'
    assert plan.config['num_head_channels'] == 64 and plan.config['image_size'] == 32
    assert plan.denoiser == 'FlowDenoiser' and plan.options['reverse'] and plan.options['time_scale'] == 1
