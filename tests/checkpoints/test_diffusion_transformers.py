"""DiT and SiT: the same names, other trainers; what is known of them, and what is asked."""

import argparse

import numpy as np
import pytest
import torch

from difflow import load_denoiser, save
from difflow.checkpoints import describe
from difflow.networks import DiT
from golden import FIXTURES, fill, wave

TINY = dict(input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, num_classes=10)
Y = torch.tensor([1, 10])


@pytest.fixture(scope='module')
def net():
    return fill(DiT(**TINY), keep=['pos_embed'])


def write(path, net, model=None, **arguments):
    "Write a file of the trainer of `model`, or the bare averages"
    ema = net.state_dict()
    raw = {name: tensor + 1 for name, tensor in ema.items()}
    args = argparse.Namespace(model=model, image_size=64, num_classes=10, **arguments)
    torch.save({'model': raw, 'ema': ema, 'opt': {'state': {}}, 'args': args} if model else ema, path)
    return path


def test_dit_predicts_noise_as_published(net, tmp_path):
    denoiser = load_denoiser(write(tmp_path / 'dit.pt', net, 'DiT-S/2'), num_heads=3)
    s = denoiser.scheduler
    sigma = s.sigmas[[3, 700]]
    answer = torch.from_numpy(np.load(FIXTURES / 'other_trainers.npz')['dit'])  # at timesteps 3 and 700.5
    abar = s.alphas_cumprod[3].float()
    x = wave((2, 4, 8, 8)) / abar.sqrt()
    with torch.inference_mode():
        found = denoiser(x[:1], float(sigma[0]), Y[:1])
    expected = x[:1] - ((1 - abar) / abar).sqrt() * answer[:1, :4]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert denoiser.card == dict(model='DiT-S/2', space='latents', weights='ema (averaged); not model')
    assert denoiser.prediction == 'eps' and denoiser.variance_type == 'learned_range' and not denoiser.clip


def test_sit_predicts_velocities_in_its_own_time(net, tmp_path):
    args = dict(path_type='Linear', prediction='velocity')
    denoiser = load_denoiser(write(tmp_path / 'sit.pt', net, 'SiT-S/2', **args), num_heads=3)
    x, sigma = wave((2, 4, 8, 8)), torch.tensor([0.5, 9.0])
    t = 1 / (1 + sigma)
    with torch.inference_mode():
        velocity = net(x * t[:, None, None, None], t, Y)[:, :4]  # x_t = (1 - t) n + t x0, v = x0 - n
        expected = x * t[:, None, None, None] + (1 - t)[:, None, None, None] * velocity
        torch.testing.assert_close(denoiser(x, sigma, Y), expected, atol=1e-5, rtol=1e-4)
    assert type(denoiser).__name__ == 'FlowDenoiser' and denoiser.options['reverse']


def test_bare_weights_do_not_say_which_they_are(net, tmp_path):
    path = write(tmp_path / 'bare.pt', net)
    assert describe(path)['missing'] == ['num_heads=', 'prediction=']
    with pytest.raises(ValueError, match='give prediction='):
        load_denoiser(path, num_heads=3)
    eps, flow = (load_denoiser(path, prediction=kind, num_heads=3) for kind in ('eps', 'flow'))
    assert {'schedule', 'diffusion_steps', 'variance', 'clip'} <= eps.assumed.keys()
    assert {'reverse', 'time_scale'} <= flow.assumed.keys()
    other = load_denoiser(path, prediction='flow', reverse=False, num_heads=3)
    assert not other.options['reverse'] and 'reverse' not in other.assumed


def test_latents_are_called_latents(net, tmp_path):
    path = write(tmp_path / 'bare.pt', net)
    denoiser = load_denoiser(path, prediction='eps', num_heads=3)
    assert denoiser.card['space'] == 'latents' and 'not pictures' in denoiser.assumed['space']
    assert describe(path)['card']['space'] == 'latents' and describe(path)['image_shape'] == [4, 8, 8]
    pixels = fill(DiT(**TINY | dict(in_channels=3)), keep=['pos_embed'])
    pixels = load_denoiser(write(tmp_path / 'p.pt', pixels), prediction='eps', num_heads=3)
    assert 'space' not in pixels.card and 'space' not in pixels.assumed and pixels.clip


def test_other_paths_and_contradictions_are_refused(net, tmp_path):
    path = write(tmp_path / 'sit.pt', net, 'SiT-S/2', path_type='GVP', prediction='velocity')
    with pytest.raises(ValueError, match='velocity on the path GVP'):
        load_denoiser(path, num_heads=3)
    path = write(tmp_path / 'dit.pt', net, 'DiT-S/2')
    with pytest.raises(ValueError, match="prediction is 'eps' in the file, got 'flow'"):
        load_denoiser(path, prediction='flow', num_heads=3)
    for wrong, words in ((dict(depth=3), 'depth is 2 in the file'), (dict(width=3), 'unknown argument')):
        with pytest.raises(ValueError, match=words):
            load_denoiser(path, num_heads=3, **wrong)


def test_class_dropout_says_what_the_last_row_is(net, tmp_path):
    path = write(tmp_path / 'bare.pt', net)
    told = dict(prediction='eps', num_heads=3)
    with_null, without = load_denoiser(path, **told), load_denoiser(path, class_dropout_prob=0.0, **told)
    assert (with_null.num_classes, with_null.null_class) == (
        10,
        True,
    ) and 'class_dropout_prob' in with_null.assumed
    assert (without.num_classes, without.null_class) == (11, False)


def test_wrappers_and_ways_out(net, tmp_path):
    wrapped = {f'_orig_mod.module.{name}': tensor for name, tensor in net.state_dict().items()}
    torch.save({'epoch': 3, 'state_dict': wrapped}, tmp_path / 'w.ckpt')
    denoiser = load_denoiser(tmp_path / 'w.ckpt', prediction='eps', num_heads=3)
    save(denoiser, tmp_path / 'ours.safetensors')
    torch.save(denoiser.state_dict(), tmp_path / 'state.pt')
    again = load_denoiser(tmp_path / 'ours.safetensors')
    third = load_denoiser(tmp_path / 'state.pt', prediction='eps', num_heads=3)
    x = wave((2, 4, 8, 8))
    with torch.inference_mode():
        assert torch.equal(denoiser(x, 1.5, Y), again(x, 1.5, Y))
        assert torch.equal(denoiser(x, 1.5, Y), third(x, 1.5, Y))


def test_heads_of_the_published_sizes_are_known():
    from difflow.checkpoints.diffusion_transformers import _dit_architecture

    for depth, width, heads in ((12, 384, 6), (12, 768, 12), (24, 1024, 16), (28, 1152, 16)):
        with torch.device('meta'):
            net = DiT(
                depth=depth,
                hidden_size=width,
                num_heads=heads,
                patch_size=4,
                num_classes=7,
                learn_sigma=False,
            )
        config = _dit_architecture(net.state_dict(), 0.1)
        assert config == {name: net.config[name] for name in config} and config['num_heads'] == heads
