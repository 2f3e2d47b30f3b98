"""The state of a run: the scale of fp16, and states from before some settings existed."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from training_networks import DENOISERS, song

from difflow import EDMDenoiser, train
from difflow.training import EMA, Settings
from difflow.training.objective import _Objective
from difflow.training.state import _load_state, _save_state


def test_old_states_still_resume(tmp_path):
    "A state from before some settings existed is one with their defaults"
    from safetensors import safe_open
    from safetensors.torch import save_file

    fields = dict(steps=4, batch_size=4, progress=False, out=tmp_path)
    denoiser, x0 = EDMDenoiser(song(0)), torch.randn(8, 1, 8, 8).clamp(-1, 1)
    whole = train(denoiser, x0, **fields)
    file = tmp_path / 'training.safetensors'
    with safe_open(file, 'pt') as f:
        metadata, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    settings = {
        k: v
        for k, v in json.loads(metadata['settings']).items()
        if k not in ('eps', 'augment', 'lr_rampup', 'ema_w', 'ema_rampup')
    }
    save_file(tensors, file, metadata | dict(settings=json.dumps(settings)))
    again = train(denoiser, x0, **fields)
    assert np.array_equal(whole.losses, again.losses)
    with pytest.raises(ValueError, match='augment 0.0 -> 0.5'):
        train(EDMDenoiser(song()), x0, augment=0.5, **fields)


def test_the_scale_of_fp16_is_kept_in_the_state(tmp_path):
    def parts():
        objective = _Objective(DENOISERS['edm'](), 0.0)
        return (
            Settings(steps=3),
            objective,
            EMA(objective.denoiser, 10.0),
            torch.optim.AdamW(objective.parameters()),
            torch.zeros(3),
        )

    kept, fresh = (torch.amp.GradScaler('cpu', init_scale=scale) for scale in (1024.0, 2.0))
    layer = nn.Linear(1, 1)
    for gradient in (1.0, float('inf')):  # the infinity halves the scale
        optimizer = torch.optim.SGD(layer.parameters(), 0.0)
        kept.scale(layer(torch.ones(1, 1)).sum() * gradient).backward()
        kept.step(optimizer)
        kept.update()
    _save_state(tmp_path / 'state.safetensors', 2, *parts(), kept)
    assert _load_state(tmp_path / 'state.safetensors', *parts(), fresh) == 2
    assert fresh.state_dict() == kept.state_dict() and fresh.get_scale() == 512
    assert _load_state(tmp_path / 'state.safetensors', *parts()) == 2
