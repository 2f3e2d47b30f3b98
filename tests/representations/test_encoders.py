"""Encoders beyond what the notebook shows: sizes, published weights and transforms, bad input."""

import math

import numpy as np
import pytest
import torch

from difflow import ImageSet, TimeEncoder, normal, train, trajectory_codes
from difflow.data import published_images
from difflow.networks import CodedUNet
from difflow.representations import CodedDenoiser, sigma_of


def encoder(**options):
    torch.manual_seed(0)
    return TimeEncoder(**dict(k=1 / 16, in_channels=1, depth=10) | options).eval()


@pytest.fixture(scope='module')
def images():
    return normal((12, 1, 8, 8)).clamp(-1, 1)


@pytest.mark.parametrize('options, size', [({}, 4), (dict(k=0.25), 16), (dict(k=0), 2), (dict(k=0.6875), 44)])
def test_code_has_64_k_elements(options, size, images):
    net = encoder(**options)
    assert net.size == size and net(images, 0.3).shape == (12, size)
    assert (net(images, 0.3) >= 0).all()  # averages of rectified maps


def test_sigma_is_geometric_and_time_its_inverse():
    t = torch.linspace(0, 1, 11)
    sigma = sigma_of(t)
    assert sigma[0] == pytest.approx(0.01) and sigma[-1] == pytest.approx(50)
    assert (sigma[1:] / sigma[:-1]).numpy() == pytest.approx(5000**0.1)
    assert torch.allclose(encoder().time_of(sigma), t, atol=1e-6)


def test_each_row_may_have_a_time_of_its_own(images):
    net = encoder()
    each = net(images, torch.linspace(0, 1, 12))
    assert torch.allclose(each[:1], net(images[:1], 0.0), atol=1e-6)
    assert torch.allclose(each[11:], net(images[11:], 1.0), atol=1e-6)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda x: encoder()(x.expand(-1, 3, -1, -1), 0.5), r'\(B, 1, H, W\), got \(12, 3, 8, 8\)'),
        (lambda x: encoder()(x[0], 0.5), r'\(B, 1, H, W\), got \(1, 8, 8\)'),
        (lambda x: encoder()(x, 1.01), 't must be in 0..1'),
        (lambda x: encoder()(x, math.nan), 't must be in 0..1'),
        (lambda x: TimeEncoder(sigma_min=2, sigma_max=1), 'sigma_max must be a number > 2, got 1'),
    ],
)
def test_bad_input(call, message, images):
    with pytest.raises(ValueError, match=message):
        call(images)


def test_published_weights_are_read_strictly(tmp_path):
    net = encoder()
    state = net.state_dict() | {
        'linear.weight': torch.zeros(10, 4),
        'linear.bias': torch.zeros(10),
        'time_embedding.param_t': torch.zeros(1),
    }
    torch.save(state, tmp_path / 'encoder_state_1.pth')
    torch.manual_seed(5)
    again = TimeEncoder(1 / 16, 1, depth=10).load_published(tmp_path / 'encoder_state_1.pth')
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError):
        TimeEncoder(1 / 8, 1, depth=10).load_published(tmp_path / 'encoder_state_1.pth')


def test_published_images_train_an_encoder():
    x = published_images(ImageSet(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)), 'cifar100')
    assert x.abs().max() > 1
    net = CodedUNet(4, 32, 3, 32, 3, 1, (), (1,), patch_size=8)
    result = train(
        CodedDenoiser(net, TimeEncoder(1 / 16, depth=10)), x, steps=2, batch_size=8, progress=False
    )
    assert np.isfinite(result.losses).all()
    assert trajectory_codes(result.denoiser.encoder, x, [0.0, 1.0]).shape == (8, 2, 4)
