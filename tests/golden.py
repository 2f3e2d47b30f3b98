"""Weights and inputs given by closed formulas, so that reference outputs need no random numbers."""

import math
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

FIXTURES = Path(__file__).parent / 'fixtures'
EDM_LEVELS = [80, 57.586, 40.786, 28.375, 19.353, 12.910, 8.4009, 5.3152, 3.2568]  # its 18 for CIFAR-10
EDM_LEVELS += [1.9233, 1.0882, 0.5853, 0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.002]


def wave(shape, a=0.01, b=0.3):
    "Return sin(a i + b) over the flattened index i, as a float32 tensor of `shape`."
    values = np.sin(a * np.arange(math.prod(shape)) + b)
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


def filled(key, shape):
    "Return the closed-form weight of the tensor `key`, float32."
    n, c = math.prod(shape), crc32(key.encode()) % 1000
    i = np.arange(n, dtype=np.float64)
    if len(shape) == 1 and key.endswith('weight'):
        values = 1 + 0.1 * np.sin(0.37 * i + c)
    elif len(shape) == 1:
        values = 0.05 * np.sin(0.37 * i + 0.11 * c)
    else:
        values = math.sqrt(2 / (n / shape[0])) * np.sin(0.37 * i + 0.11 * c)
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


def fill(net, keep=()):
    "Load closed-form weights into `net`, except for keys that contain one of `keep`; return it in eval mode."
    state = net.state_dict()
    kept = {k: v for k, v in state.items() if any(part in k for part in keep)}
    net.load_state_dict({k: filled(k, v.shape) for k, v in state.items()} | kept)
    return net.eval()


def tiny_unet(**options):
    "Return the tiny guided-diffusion U-Net of the reference outputs, with closed-form weights."
    from difflow import UNet

    tiny = dict(
        image_size=32,
        model_channels=32,
        out_channels=6,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(16,),
        num_head_channels=32,
        resblock_updown=True,
    )
    return fill(UNet(**tiny | options))
