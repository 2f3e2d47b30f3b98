"""How the lines of published scripts run in a test, and what is read afterwards."""

import argparse
import functools
import json
import math
import pickle
import re

import numpy as np
import torch
from PIL import Image
from published_runs import Run

from difflow import UNet

VALIDATION = 'datasets/ILSVRC2012/validation'
WNIDS = 'n02119789', 'n02100735', 'n15075141'  # the first two, and the last, of the development kit
CONVNEXT = {  # channels of the watched layers of ConvNeXt Base, as the published script lists them
    'features.0': 128,
    **{f'features.1.{i}': 128 for i in range(3)},
    'features.2': 256,
    **{f'features.3.{i}': 256 for i in range(3)},
    'features.4': 512,
    **{f'features.5.{i}': 512 for i in range(27)},
    'features.6': 1024,
    **{f'features.7.{i}': 1024 for i in range(3)},
    'classifier': 1,
}


def picture(path, i, size=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient('L').resize((size + 4, size)).convert('RGB').rotate(37 * i).save(path, 'JPEG')


def lay_validation(folder, images=2):
    "Write pictures of three classes under the names that the published script reads"
    for i in range(len(WNIDS) * images):
        wnid = WNIDS[i % len(WNIDS)]
        picture(folder / VALIDATION / f'{wnid}_{i:02d}.JPEG', i)


def names(images=2):
    return sorted(f'{WNIDS[i % 3]}_{i:02d}' for i in range(3 * images))


@functools.cache
def model():
    "The state dict of a small network of the published kind: its flags are those of the line, smaller"
    torch.manual_seed(0)
    net = UNet(
        16, 3, 32, 6, 1, (8,), (1, 2), num_head_channels=16, resblock_updown=True, use_scale_shift_norm=True
    )
    for p in net.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.05)
    return net.state_dict()


def lay_model(folder):
    lay_validation(folder)
    (folder / 'models').mkdir()
    torch.save(model(), folder / 'models/256x256_diffusion_uncond.pt')


SMALLER = dict(
    image_size='16',
    num_channels='32',
    num_res_blocks='1',
    num_head_channels='16',
    attention_resolutions='8',
    timestep_respacing='4',
    step_reverse='2',
)


def check_returned(folder, printed):
    out = folder / 'results/forward_backward'
    assert sorted(p.name for p in out.glob('*.png')) == [f'{name}_t0500.png' for name in names()]
    for file in out.glob('*.png'):
        assert (Image.open(file).mode, Image.open(file).size) == ('RGB', (16, 16))
    rows = [json.loads(row) for row in (out / 'manifest.jsonl').read_text().splitlines()]
    assert {(row['stem'], row['step_reverse'], row['steps']) for row in rows} == {
        (name, 2, 4) for name in names()
    }
    assert '; 3 of 1000 classes are there; 2 of 10 in the smallest' in printed


@functools.cache
def convnext_weights():
    "The state dict of ConvNeXt Base, of few numbers that many weights share: 0.5 MB, not 354"
    from torchvision.models import convnext_base

    with torch.device('meta'):
        shapes = {name: t.shape for name, t in convnext_base().state_dict().items()}
    numbers = torch.randn(100_003, generator=torch.Generator().manual_seed(0))
    scaled = functools.cache(lambda fan: numbers / fan**0.5)

    def weight(name, shape):
        if len(shape) == 1 or 'layer_scale' in name:
            return torch.full(shape, float('weight' in name) or 0.1 * ('layer_scale' in name))
        strides = [min(7 * 5**i, 20_000 // n) for i, n in enumerate(shape)]
        return scaled(math.prod(shape[1:])).as_strided(shape, strides)

    return {name: weight(name, shape) for name, shape in shapes.items()}


TORCH_HOME = {'TORCH_HOME': 'torch'}  # where torchvision finds weights that it need not download


def lay_weights(folder):
    (folder / 'torch/hub/checkpoints').mkdir(parents=True)
    torch.save(convnext_weights(), folder / 'torch/hub/checkpoints/convnext_base-6075fbad.pth')


def lay_classified(folder):
    lay_weights(folder)
    lay_validation(folder, 1)


def shape_of(layer):
    return (1, 1) if layer == 'classifier' else (1, CONVNEXT[layer], 1, 1)


def check_statistics(folder, printed):
    out = folder / 'classifier_statistics/convnext_base'
    stored = pickle.loads((out / 'act_stat_convnext_base.pk').read_bytes())
    assert list(stored) == [
        'args',
        'accuracy',
        'accuracy_top5',
        'activations_mean',
        'activations_var',
        'activations_size',
    ]
    assert stored['args'] == argparse.Namespace(
        classifier_name='convnext_base',
        classifier_use_fp16=False,
        num_samples=2,
        batch_size=2,
        data_dir=VALIDATION,
        image_size=256,
        output='classifier_statistics/convnext_base',
    )
    assert 0 <= stored['accuracy'] <= stored['accuracy_top5'] <= 100
    for kind in ('mean', 'var', 'size'):
        assert list(stored[f'activations_{kind}']) == list(CONVNEXT)
    for layer in CONVNEXT:
        mean, square = stored['activations_mean'][layer], stored['activations_var'][layer]
        assert mean.shape == square.shape == shape_of(layer) and mean.dtype == square.dtype == np.float32
        assert (square >= mean**2 * (1 - 1e-5)).all()  # E[a^2], not the variance
    assert stored['activations_size']['features.0'] == 2 * 56 * 56
    assert stored['activations_size']['classifier'] == 2 * 1000
    log = (out / 'log.txt').read_text()
    assert re.search(r'^Top-5 Accuracy: [\d.]+%$', log, re.M) and log.endswith('Done!\n')
    assert (out / 'progress.csv').read_bytes() == b''


def lay_returned(folder):
    "What the published scripts have left: images of one level, and the statistics of the classifier"
    lay_classified(folder)
    for i, name in enumerate(names(1)):
        place = folder / 'results/diffused_ILSVRC2012_validation/t_125_250_images'
        picture(place / f'{name}_t0500.JPEG', i + 3)
    (folder / 'results/diffused_ILSVRC2012_validation/t_125_250_images/log.txt').write_text('sampling...\n')
    content = dict(
        args=argparse.Namespace(classifier_name='convnext_base', num_samples=10000),
        accuracy=84.0,
        accuracy_top5=96.8,
        activations_mean={layer: np.full(shape_of(layer), 0.1, np.float32) for layer in CONVNEXT},
        activations_var={layer: np.full(shape_of(layer), 4, np.float32) for layer in CONVNEXT},
        activations_size=dict.fromkeys(CONVNEXT, 10112),
    )
    (folder / 'classifier_statistics/convnext_base').mkdir(parents=True)
    file = folder / 'classifier_statistics/convnext_base/act_stat_convnext_base.pk'
    file.write_bytes(pickle.dumps(content))


def check_change(folder, printed):
    out = folder / 'classifier_statistics/convnext_base'
    change = pickle.loads((out / 'act_diff_convnext_base-t_125_250.pk').read_bytes())
    logits = pickle.loads((out / 'logits_convnext_base-t_125_250.pk').read_bytes())
    assert list(change) == list(CONVNEXT)
    for measures in change.values():
        assert list(measures) == ['L2', 'L2_normalized', 'cosine']
        assert all(a.shape == (3,) and a.dtype == np.float32 for a in measures.values())
        assert (measures['L2'] > 0).all() and (np.abs(measures['cosine']) <= 1).all()
    assert list(logits) == ['logits_start', 'logits_sample']
    assert all(a.shape == (3, 1000) and a.dtype == np.float32 for a in logits.values())
    start, sample = (logits[name] - np.float32(0.1) for name in logits)  # as the published script whitens
    expected = ((sample - start) ** 2).sum(1) / (4 + 1e-8)
    np.testing.assert_allclose(change['classifier']['L2'], expected, rtol=1e-4)
    assert 'act_stat_convnext_base.pk;' in printed and (out / 'log.txt').read_text().endswith('Done!\n')


RUNS = {
    'S0 forward-backward': Run(SMALLER, lay_model, check_returned),
    'S0 classifier-statistics': Run(
        dict(num_samples='2', batch_size='2'), lay_classified, check_statistics, environment=TORCH_HOME
    ),
    'S0 evaluate-classifier': Run(dict(batch_size='7'), lay_returned, check_change, environment=TORCH_HOME),
}
