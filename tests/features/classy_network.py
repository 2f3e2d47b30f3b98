"""The published network of SSCD as ClassyVision names its parts, written from the description of its names"""

import warnings

import torch
import torch.nn.functional as F
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, width, middle, out, stride, groups):
        super().__init__()
        conv = lambda a, b, *rest, **kw: nn.Conv2d(a, b, *rest, bias=False, **kw)
        self.convolutional_block = nn.Sequential(
            conv(width, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            conv(middle, middle, 3, stride, 1, groups=groups),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            conv(middle, out, 1),
        )
        self.bn = nn.BatchNorm2d(out)
        self.downsample = None
        if width != out:
            self.downsample = nn.Sequential(conv(width, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn(self.convolutional_block(x)) + skip)


class Classy(nn.Module):
    "A residual network of the names backbone.initial_block, backbone.blocks.i.blocki-j, embeddings.1"

    def __init__(self, layers=(3, 4, 6, 3), groups=1, width_per_group=64, dims=512):
        super().__init__()
        self.backbone, stem = nn.Module(), nn.Module()
        stem._module = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.backbone.initial_block, width, stages = stem, 64, []
        for i, count in enumerate(layers):
            stage = nn.Sequential()
            for j in range(count):
                stage.add_module(
                    f'block{i}-{j}',
                    Bottleneck(
                        width, groups * width_per_group * 2**i, 256 * 2**i, 2 if i and not j else 1, groups
                    ),
                )
                width = 256 * 2**i
            stages.append(stage)
        self.backbone.blocks = nn.Sequential(*stages)
        self.embeddings = nn.Sequential(nn.Identity(), nn.Linear(2048, dims))

    def forward(self, x):
        h = self.backbone.blocks(self.backbone.initial_block._module(x))
        pooled = h.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        return F.normalize(self.embeddings(pooled), dim=1)


def traced(model, path):
    "Save `model` as a TorchScript program"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        torch.jit.trace(model, torch.zeros(1, 3, 64, 64), check_trace=False).save(str(path))
    return path
