"""Settings and options out of range."""

import re

import numpy as np
import pytest
import torch
from training_networks import song

from difflow import EDMDenoiser, normal, train


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(steps=0), 'steps must be an integer in'),
        (dict(batch_size=4, accumulate=8), 'accumulate must be an integer in 1..4'),
        (dict(lr=0.0), 'lr must be a number in'),
    ],
)
def test_settings_out_of_range(fields, message):
    from difflow.training import Settings

    with pytest.raises(ValueError, match=message):
        Settings(**fields)


class Untouched:
    "Images that must not be read"

    image_shape = 1, 8, 8

    def __len__(self):
        raise AssertionError('images were read')

    __getitem__ = None


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(compile='no'), "compile must be bool, got 'no'"),
        (dict(progress=1), 'progress must be bool, got 1'),
        (dict(resume=None), 'resume must be bool or str or Path or Mapping, got None'),
        (dict(workers=-1), 'workers must be an integer >= 0, got -1'),
        (dict(save_every=0), 'save_every must be an integer >= 1, got 0'),
        (dict(sample_every=-5), 'sample_every must be an integer >= 1, got -5'),
        (dict(snapshot_every=[3, 0.5]), 'snapshot_every must be an integer >= 0, got 0.5'),
        (dict(preview=64), 'preview must be Mapping or None, got 64'),
        (dict(snapshots={1.5: 'a'}), 'step of snapshots must be an integer >= 0, got 1.5'),
        (dict(card='words'), "card must be dict or None, got 'words'"),
    ],
)
def test_options_are_refused_before_images_are_read(options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(EDMDenoiser(song(0)), Untouched(), steps=1, **dict(out=tmp_path / 'run') | options)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('every', [np.int64(2), torch.tensor(2), [2, 4], np.array([2, 4]), range(0, 5, 2)])
def test_steps_are_numbers_of_any_kind(every):
    seen = []
    fields = dict(steps=4, batch_size=2, progress=False, snapshot=lambda step, denoiser: seen.append(step))
    train(EDMDenoiser(song(0)), normal((2, 1, 8, 8)).clamp(-1, 1), snapshot_every=every, **fields)
    assert seen == [2, 4]
