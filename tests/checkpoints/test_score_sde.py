"""score_sde: the numbers of its own score functions, from files as its trainer writes them."""

import math

import numpy as np
import pytest
import torch

from difflow import load_denoiser
from difflow.checkpoints import describe
from golden import FIXTURES, filled, wave

HIDDEN = 'sigmas', 'all_modules.0.W'  # what is no parameter
KINDS = {'ve_ncsnpp': 've', 'vp_ddpmpp': 'vp', 'vp_ncsnpp': 'vp', 've_skip': 've', 'eps_ddpmpp': 'eps'}


@pytest.fixture(scope='module')
def published():
    return dict(np.load(FIXTURES / 'other_trainers.npz'))


def weights(published, kind):
    "Closed-form weights under the names of the published code, in its order"
    shapes = {}
    for line in published[f'{kind}_names']:
        name, shape = line.split(' ')
        shapes[name] = [int(n) for n in shape.split(',')]
    sigmas = torch.from_numpy(np.exp(np.linspace(math.log(50), math.log(0.01), 1000)))
    return {'sigmas': sigmas} | {name: filled(name, shape) for name, shape in shapes.items()}


def write(path, own, averaged=True):
    "Write a file as the trainer does, with other raw weights beside the averages"
    parameters = [name for name in own if name not in HIDDEN]
    raw = {f'module.{name}': tensor + (name in parameters) * averaged for name, tensor in own.items()}
    content = {'optimizer': {'state': {}, 'param_groups': [{'lr': 2e-4}]}, 'model': raw, 'step': 5}
    shadow = [own[name] for name in parameters]
    if averaged:
        content['ema'] = {'decay': 0.999, 'num_updates': 5, 'shadow_params': shadow}
    torch.save(content, path)
    return path


@pytest.mark.parametrize('kind', KINDS)
def test_denoisers_are_those_of_its_score_functions(kind, published, tmp_path):
    path = write(tmp_path / 'checkpoint_5.pth', weights(published, kind))
    fir = {} if kind.startswith('eps') else {'fir': 'ddpmpp' not in kind}
    denoiser = load_denoiser(path, prediction=KINDS[kind], image_size=8, **fir)
    expected = torch.from_numpy(published[kind])
    with torch.inference_mode():
        found = denoiser(wave((2, 3, 8, 8)), torch.from_numpy(published[f'{kind}_sigma']))
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert denoiser.card['weights'] == 'ema.shadow_params (averaged); not model.module'


def test_levels_of_images_in_0_1_are_twice_as_large_in_ours(published, tmp_path):
    path = write(tmp_path / 'c.pth', weights(published, 've_ncsnpp'))
    options = load_denoiser(path, prediction='ve', image_size=8).options
    assert options == pytest.approx(dict(sigma_min=0.02, sigma_max=100.0))


def test_raw_weights_are_had_by_key(published, tmp_path):
    own = weights(published, 'vp_ddpmpp')
    path = write(tmp_path / 'c.pth', own)
    told = dict(prediction='vp', image_size=8)
    ema, raw = load_denoiser(path, **told), load_denoiser(path, key='model', **told)
    bias = own['all_modules.0.bias']
    assert torch.equal(ema.net.map_layer0.bias, bias) and torch.equal(raw.net.map_layer0.bias, bias + 1)


def test_without_averages_the_raw_ones_are_taken(published, tmp_path):
    path = write(tmp_path / 'c.pth', weights(published, 'vp_ddpmpp'), averaged=False)
    assert load_denoiser(path, prediction='vp', image_size=8).card['weights'] == 'model.module'


def test_what_the_file_does_not_say_is_asked(published, tmp_path):
    fourier = write(tmp_path / 've.pth', weights(published, 've_ncsnpp'))
    positional = write(tmp_path / 'vp.pth', weights(published, 'vp_ddpmpp'))
    assert describe(fourier)['missing'] == ['image_size=', 'prediction=']
    assert describe(positional, prediction='score', image_size=8)['missing'] == ['sde=']
    with pytest.raises(ValueError, match='give sde='):
        load_denoiser(positional, prediction='score', image_size=8)
    told = load_denoiser(positional, prediction='score', sde='vp', image_size=8)
    assert type(told).__name__ == 'VPDenoiser' and 'sde' not in told.assumed
    assumed = load_denoiser(fourier, prediction='score', image_size=8).assumed
    assert assumed['sde'] == 've' and 'fir' not in assumed  # its filtered convolutions show
    assert load_denoiser(positional, prediction='vp', image_size=8).assumed['fir'] is False


@pytest.mark.parametrize(
    'kind, told, words',
    [
        ('ve_ncsnpp', dict(prediction='vp'), 'Fourier features'),
        ('vp_ddpmpp', dict(prediction='ve'), 'numbers of levels'),
        ('vp_ddpmpp', dict(prediction='score', sde='subvp'), 'sde must be one of'),
        ('vp_ddpmpp', dict(prediction='vp', image_size=0), 'image_size'),
        ('vp_ddpmpp', dict(prediction='vp', fir=1), 'fir'),
        ('vp_ddpmpp', dict(prediction='vp', width=3), 'unknown argument'),
        ('vp_ddpmpp', dict(prediction='edm'), "must be 'vp' or 'eps'"),
    ],
)
def test_what_does_not_fit_is_refused(kind, told, words, published, tmp_path):
    path = write(tmp_path / 'c.pth', weights(published, kind))
    with pytest.raises(ValueError, match=words):
        load_denoiser(path, **dict(image_size=8) | told)


def test_other_networks_of_the_repository_are_named(published, tmp_path):
    own = weights(published, 'vp_ddpmpp')
    blocks = [name for name in own if '.Conv_2.' in name]
    ddpm = {
        name.replace('Conv_2.weight', 'NIN_0.W'): tensor for name, tensor in own.items() if name not in blocks
    }
    ddpm['all_modules.7.NIN_0.W'] = torch.zeros(4, 4)
    torch.save(ddpm, tmp_path / 'ddpm.pth')
    with pytest.raises(ValueError, match='module 7 .* none of NCSN'):
        load_denoiser(tmp_path / 'ddpm.pth', prediction='vp', image_size=8)


def test_published_sizes_are_known(published):
    from difflow.checkpoints.score_sde import _network_of

    cifar10 = dict(
        model_channels=128, channel_mult=[1, 2, 2, 2], attention_levels=[1], encoder_type='standard'
    )
    large = dict(
        model_channels=128, channel_mult=[1, 1, 2, 2, 2, 2, 2], attention_levels=[4], encoder_type='skip'
    )
    for architecture, size in ((cifar10, 32), (large, 256)):
        config, known, assumed = _network_of(architecture | {'decoder_type': 'standard'}, {})
        assert known and config['img_resolution'] == assumed['image_size'] == size
        assert config['attn_resolutions'] == [16]
