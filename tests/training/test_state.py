"""The state of a run: the scale of fp16, and states from before some settings existed."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from training_networks import DENOISERS, new_song, song

from difflow import EDMDenoiser, VPDenoiser, load_denoiser, train
from difflow.training import EMA, Settings
from difflow.training.objective import _Objective
from difflow.training.state import _load_state, _save_state

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
SHORT = dict(steps=4, batch_size=4, progress=False)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a run, and all that is in it"
    folder = tmp_path_factory.mktemp('finished')
    train(EDMDenoiser(song(0)), IMAGES, **SHORT, out=folder)
    return folder, {p.name: p.read_bytes() for p in folder.iterdir()}


class Plain(EDMDenoiser):
    def predict(self, x, sigma, labels=None, check=True):
        return self.net(x), None


def test_a_state_that_does_not_state_its_data_is_refused(tmp_path):
    "As those written before a state held the identity of its run"
    from safetensors import safe_open
    from safetensors.torch import save_file

    fields = dict(steps=4, batch_size=4, progress=False, out=tmp_path)
    denoiser, x0 = EDMDenoiser(song(0)), torch.randn(8, 1, 8, 8).clamp(-1, 1)
    whole = train(denoiser, x0, **fields)
    file = tmp_path / 'training.safetensors'
    with safe_open(file, 'pt') as f:
        metadata, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    save_file(tensors, file, {k: metadata[k] for k in ('step', 'settings')})
    with pytest.raises(ValueError, match='earlier difflow and does not state its data: give another --out'):
        train(denoiser, x0, **fields)
    again = train(denoiser, x0, resume=False, **fields)
    assert np.array_equal(whole.losses, again.losses)


def other_weights():
    torch.manual_seed(1)
    return new_song(0)


@pytest.mark.parametrize(
    'changed, named',
    [
        (dict(images=-IMAGES), r'images 8 of digest \w+ -> 8 of digest'),
        (dict(images=IMAGES.flip(0)), 'images 8 of digest'),
        (dict(images=IMAGES[:7]), r'images 8 of digest \w+ -> 7 of digest'),
        (dict(denoiser=lambda: EDMDenoiser(song(0), P_mean=0.0)), 'P_mean -1.2 -> 0.0'),
        (dict(denoiser=lambda: EDMDenoiser(song(0), 1.0)), 'sigma_data 0.5 -> 1.0'),
        (dict(denoiser=lambda: VPDenoiser(song(0))), 'parametrisation EDMDenoiser -> VPDenoiser'),
        (dict(denoiser=lambda: EDMDenoiser(song(0, 0.2))), 'network dropout 0.1 -> 0.2'),
        (dict(denoiser=lambda: EDMDenoiser(other_weights())), r'model \w+ -> \w+;'),
        (dict(lr=0.01), 'lr 0.001 -> 0.01'),
        (dict(seed=2), 'seed 0 -> 2'),
        (dict(accumulate=2), 'accumulate 1 -> 2'),
        (dict(mixed_precision='bf16'), 'mixed_precision no -> bf16'),
        (dict(compile=True), 'compile False -> True'),
        (dict(sample_every=2), r"files of steps that are past would differ: samples None -> \['every 2"),
        (dict(dumps={2: 'two.safetensors'}), 'dumps None -> '),
    ],
)
def test_another_run_in_the_folder_is_refused(changed, named, finished):
    folder, before = finished
    options = dict(denoiser=lambda: EDMDenoiser(song(0)), images=IMAGES) | changed
    denoiser, images = options.pop('denoiser')(), options.pop('images')
    with pytest.raises(ValueError, match=named) as error:
        train(denoiser, images, **SHORT | options, out=folder)
    assert '--restart' in str(error.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize('changed', [dict(save_every=2), dict(workers=1), dict(progress=True), {}])
def test_how_a_run_is_kept_and_shown_is_not_what_it_is_made_of(changed, finished):
    folder, before = finished
    train(EDMDenoiser(song(0)), IMAGES.clone(), **SHORT | changed, out=folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_state_and_the_model_beside_it_are_read_as_the_same(finished):
    folder, _ = finished
    state, model = (load_denoiser(folder / f'{name}.safetensors') for name in ('training', 'model'))
    assert type(state) is type(model) is EDMDenoiser and model.card['steps'] == 4
    assert all(torch.equal(a, b) for a, b in zip(state.parameters(), model.parameters()))


def test_a_state_of_another_run_is_no_start(finished, tmp_path):
    state = finished[0] / 'training.safetensors'
    again = train(EDMDenoiser(song(0)), IMAGES, **SHORT, out=tmp_path / 'on', resume=state)
    assert again.losses.all() and (tmp_path / 'on/model.safetensors').exists()
    with pytest.raises(ValueError, match='seed 0 -> 5'):
        train(EDMDenoiser(song(0)), IMAGES, **SHORT, seed=5, out=tmp_path / 'off', resume=state)
    assert not (tmp_path / 'off').exists()


def test_a_new_beginning_leaves_nothing_of_the_old(tmp_path):
    fields = dict(out=tmp_path, preview=dict(steps=2))
    train(EDMDenoiser(song(0)), IMAGES, **SHORT, sample_every=1, **fields)
    train(EDMDenoiser(song(0)), -IMAGES, **SHORT, sample_every=4, resume=False, **fields)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'model.safetensors',
        'samples_000004.png',
        'training.safetensors',
    ]


def test_the_second_writer_is_told_who_holds_the_folder(tmp_path):
    def second(step, loss):
        train(EDMDenoiser(song(0)), IMAGES, **SHORT, out=tmp_path)

    with pytest.raises(ValueError, match=rf'is held by process {os.getpid()} on .*: wait for it'):
        train(EDMDenoiser(song(0)), IMAGES, **SHORT, out=tmp_path, callback=second)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_hears_the_loss(tmp_path):
    from accelerate.tracking import GeneralTracker

    class Listener(GeneralTracker):
        name, requires_logging_directory, tracker = 'listener', False, None
        heard, ended = {}, False

        def store_init_configuration(self, values):
            self.values = values

        def log(self, values, step=None, **options):
            self.heard[step] = values['loss']

        def finish(self):
            Listener.ended = True

    fields = dict(steps=100, batch_size=4, progress=False)
    listener, images = Listener(), torch.randn(8, 1, 2, 2).clamp(-1, 1)
    denoiser = Plain(torch.nn.Conv2d(1, 1, 1))
    result = train(denoiser, images, **fields, log_with=listener, out=tmp_path)
    assert sorted(listener.heard) == [50, 100] and Listener.ended
    assert listener.heard[100] == pytest.approx(result.losses[50:].mean(), rel=1e-5)
    assert listener.values['lr'] == 0.001 and listener.values['images'].startswith('8 of digest')
    for name, problem in (('nothing', 'must be of tensorboard'), (['wandb'], 'pip install wandb')):
        with pytest.raises(ValueError, match=problem):
            train(denoiser, images, **fields, log_with=name)


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
