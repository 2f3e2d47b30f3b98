"""The average of the weights: published ramps, and buffers."""

import math

import torch

from difflow.training import EMA


def test_averages():
    model = torch.nn.Linear(1, 1)
    constant, growing = EMA(model, 0, 0.9995, rampup=False), EMA(model, 0, 0.9995)
    assert (
        constant.keep(0, 128) == 0.9995
        and growing.keep(0, 128) == 0.1
        and growing.keep(128 * 100_000, 128) == 0.9995
    )
    assert EMA(model, 500_000).keep(0, 512) == 0 and EMA(model, 500_000, rampup=False).keep(
        0, 512
    ) == 0.5 ** (512 / 500_000)


def test_averages_of_buffers():
    "Statistics are averaged, counts are copied, and what is infinite stays"
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer('mask', torch.tensor([0.0, -math.inf]))
    ema = EMA(model, 0, 0.75, rampup=False)
    with torch.no_grad():
        model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model, 128, 128)
    assert ema.model.running_mean.tolist() == [1.0, 1.0] and ema.model.num_batches_tracked == 7
    assert ema.model.mask.tolist() == [0.0, -math.inf]
