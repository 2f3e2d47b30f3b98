"""The loops of EDM and minimal-diffusion themselves, run for 200 steps, and ours from the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from difflow import ImageSet, SongUNet, UNet, train
from difflow.training import parametrise, recipe
from difflow.training.recipes import settings_of

# Each original ran on a CPU (NVlabs/edm at 008a4e5: training_loop; VSehwag/minimal-diffusion at ea0321e:
# train_one_epoch) on these pictures in the order of `batches`, with the levels and the noise of
# `levels='independent'`, seed 0, without dropout and augmentation. Of every weight after 20 and after 200
# steps there is the product with a random direction; biases that a normalisation takes away again are left
# out: their gradient is rounding alone, which Adam makes large.
THEIRS = json.loads((Path(__file__).parent / 'published_loops.json').read_text())
COUNT, BATCH = 24, 4


def first_weights(net):
    "Give the parameters values that no generator of torch decides"
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(net.named_parameters())):
            x = np.random.default_rng(i).standard_normal(tuple(parameter.shape))
            if x.ndim == 1:
                x = name.endswith('weight') + 0.05 * x
            else:
                x = x * 0.5 / np.sqrt(np.prod(x.shape[1:]))
            parameter.copy_(torch.from_numpy(x))
    return net


def pictures():
    x = np.random.default_rng(5).integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)
    return ImageSet(torch.from_numpy(x), torch.arange(COUNT) % 3)


def minimal(steps, **changed):
    net = UNet(
        8,
        3,
        32,
        3,
        num_res_blocks=1,
        attention_resolutions=(4,),
        channel_mult=(1, 2),
        num_classes=3,
        num_head_channels=32,
        resblock_updown=True,
        use_new_attention_order=True,
    )
    options = dict(ema_rampup=False, levels='independent', seed=0) | changed
    options = recipe('UNet', batch_size=BATCH, steps=steps, **options)
    denoiser = parametrise(first_weights(net), 'eps', 'cosine')
    return train(denoiser, pictures(), settings_of(options, (3, 8, 8)), progress=False)


def edm(kind, steps, **changed):
    small = dict(model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,))
    net = first_weights(SongUNet(8, 3, 3, label_dim=3, dropout=0.0, **small))
    options = dict(levels='independent', seed=0, augment=0.0, ema_halflife=200.0, lr_rampup=400.0) | changed
    options = recipe('ddpmpp', batch_size=BATCH, steps=steps, **options)
    settings = settings_of(options, (3, 8, 8), scaled=True)
    return train(parametrise(net, kind.lower()), pictures(), settings, progress=False)


def products(net):
    "Return the product of every weight with a direction"
    weights = {name: tensor for name, tensor in net.state_dict().items() if name.endswith('weight')}
    direction = lambda i, n: np.random.default_rng(1000 + i).standard_normal(n)
    rows = enumerate(weights[name].double().numpy().ravel() for name in sorted(weights))
    return np.array([row @ direction(i, len(row)) for i, row in rows])


def distances(result, theirs):
    "Return how far the last and the averaged weights are from theirs, in parts of the way they have gone"
    found = []
    for net, there in ((result.raw.net, theirs['raw']), (result.denoiser.net, theirs['averaged'])):
        ours, there = products(net), np.array(there)
        start = products(first_weights(type(net)(**net.config)))
        found.append(np.linalg.norm(ours - there) / np.linalg.norm(there - start))
    return found


@pytest.mark.parametrize('steps', [20, pytest.param(200, marks=pytest.mark.slow)])
def test_minimal_diffusion(steps):
    theirs = THEIRS[f'minimal-diffusion {steps}']
    result = minimal(steps)
    raw, averaged = distances(result, theirs)
    assert raw < 1e-3
    assert averaged < 0.03  # of 0.9995 a + 0.0005 b each step rounds more than it moves
    assert np.abs(result.losses[[0, -1]] - theirs['losses']).max() < 1e-5


@pytest.mark.parametrize('steps', [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', ['VP', 'EDM'])
def test_edm(kind, steps):
    theirs = THEIRS[f'{kind} {steps}']
    result = edm(kind, steps)
    assert max(distances(result, theirs)) < 1e-3
    ends = [round(1000 * kimg / BATCH) for kimg in theirs['kimg']]
    means = [result.losses[start:end].mean() for start, end in zip([0, *ends], ends, strict=False)]
    assert np.abs(np.array(means) - theirs['ticks']).max() < 1e-5  # Loss/loss of its stats.jsonl


def test_what_differs_on_purpose_shows():
    theirs = THEIRS['minimal-diffusion 20'], THEIRS['VP 20']
    assert distances(minimal(20, ema_rampup=True), theirs[0])[1] > 1
    assert distances(minimal(20, levels='spread'), theirs[0])[0] > 0.1
    assert distances(edm('VP', 20, levels='spread'), theirs[1])[0] > 0.1
