"""What a step of training asks of the machine: no copy that a GPU waits for, other precisions, large seeds."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from difflow.data.sets import load_images
from difflow.denoisers.discrete_time import DDPMDenoiser
from difflow.denoisers.preconditioned import EDMDenoiser, IDDPMDenoiser, VEDenoiser, VPDenoiser
from difflow.networks.unet import UNet
from difflow.noise import normal, uniform, whole_numbers
from difflow.schedulers.scheduler import Scheduler
from difflow.training.loop import (EMA, Settings, _Objective, _Run, _accelerator_in, _draw, _load_state,
                                   _save_state, train)

def unet(outputs=1):
    torch.manual_seed(0)
    return UNet(
        8,
        1,
        32,
        outputs,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 1),
        num_classes=10,
        null_class=True,
    )


KINDS = {
    'edm': lambda: EDMDenoiser(unet()),
    'vp': lambda: VPDenoiser(unet()),
    've': lambda: VEDenoiser(unet()),
    'iddpm': lambda: IDDPMDenoiser(unet()),
    'ddpm': lambda: DDPMDenoiser(unet(), Scheduler.cosine(50)),
    'learned variance': lambda: DDPMDenoiser(unet(2), Scheduler.linear(50), variance='learned_range'),
}


class NoCopies(TorchFunctionMode):
    "Raise where numbers of the CPU are copied to another device, for which a GPU would be waited"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        made_here = function in (torch.tensor, torch.as_tensor)
        moved = args and isinstance(args[0], Tensor) and args[0].device.type == 'cpu'
        if isinstance(result, Tensor) and result.device.type != 'cpu' and (made_here or moved):
            raise AssertionError(f'{function} copies {args} to {result.device}')
        return result


def test_the_guard_sees_copies():
    with NoCopies():
        torch.arange(3, device='meta')
        for copy in (
            lambda: torch.tensor([1], device='meta'),
            lambda: torch.ones(2).to('meta'),
            lambda: whole_numbers([1, 2], 'meta'),
        ):
            with pytest.raises(AssertionError, match='copies'):
                copy()


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_of_a_loss_is_copied_to_the_device_or_read_from_it(kind):
    "The meta device has no numbers: what reads one fails there, as a wait on a GPU would not"
    objective = _Objective(KINDS[kind](), 0.1).to('meta')
    x0, labels = torch.empty(6, 1, 8, 8, device='meta'), torch.empty(6, dtype=torch.int64, device='meta')
    step = lambda k: objective(x0, labels, _draw(k, range(1, 12, 2), 12, (1, 8, 8), 3, 'meta')).backward()
    step(0)  # tables are copied once
    with NoCopies():
        step(1)


@pytest.mark.cuda
@pytest.mark.parametrize('precision', ['no', 'bf16'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_step_does_not_wait_for_the_gpu(kind, precision):
    images = load_images('digits', max_images=32)
    run = _Run(
        _accelerator_in(precision), KINDS[kind](), images, Settings(steps=9, batch_size=8), None, False
    )
    x0, labels = images.tensor(range(8)).cuda(), images.labels[:8].cuda()
    for step in range(3):
        run.step(step, x0, labels)
    torch.cuda.set_sync_debug_mode('error')
    try:
        run.step(3, x0, labels)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('rows', [range(8), range(1, 8, 3), range(7, -1, -2), range(0)])
def test_a_range_of_images_is_a_list_of_them(rows):
    for make in (normal, uniform):
        assert torch.equal(make((len(rows), 5), 7, 2, 1, rows), make((len(rows), 5), 7, 2, 1, list(rows)))
    with pytest.raises(ValueError, match='images must be an int in'):
        normal((2, 3), images=range(-1, 1))
    with pytest.raises(ValueError, match='one for each of 2 images, got 3'):
        normal((2, 3), images=range(3))


@pytest.mark.parametrize('seed', [0, 5, 2**32 + 5, 2**64 - 1])
def test_one_seed_is_that_seed_for_each_image(seed):
    assert torch.equal(normal((3, 7), seed, 4, 1, [0, 1, 2]), normal((3, 7), [seed] * 3, 4, 1, [0, 1, 2]))


def test_tables_are_copied_once_and_stay_equal():
    s = Scheduler.cosine(20)
    assert s.on('sigmas', 'cpu') is s.sigmas and s.on('sigmas', 'meta') is s.on('sigmas', 'meta')
    assert torch.equal(s.on('posterior_log_variance_clipped', 'cpu'), s.posterior_log_variance_clipped)


QUICK = dict(steps=12, batch_size=16, lr=3e-3, warmup=2, progress=False)


def test_precisions_follow_each_other_in_one_process():
    images = load_images('digits', max_images=64)
    whole = train(KINDS['edm'](), images, **QUICK)
    half = train(KINDS['edm'](), images, mixed_precision='bf16', **QUICK)
    again = train(KINDS['edm'](), images, **QUICK)
    assert np.array_equal(whole.losses, again.losses) and not np.array_equal(whole.losses, half.losses)
    np.testing.assert_allclose(half.losses, whole.losses, rtol=0.05)  # bfloat16 has 8 bits
    for name, weight in half.raw.state_dict().items():
        assert weight.dtype == whole.raw.state_dict()[name].dtype


def test_bf16_resumes_exactly(tmp_path):
    images, fields = load_images('digits', max_images=64), dict(mixed_precision='bf16', **QUICK)

    def stop(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    whole = train(KINDS['edm'](), images, out=tmp_path / 'whole', **fields)
    with pytest.raises(KeyboardInterrupt):
        train(KINDS['edm'](), images, out=tmp_path / 'half', callback=stop, **fields)
    resumed = train(KINDS['edm'](), images, out=tmp_path / 'half', **fields)
    assert np.array_equal(whole.losses, resumed.losses)


@pytest.mark.parametrize('precision', ['fp8', 'half', 'fp16'])
def test_unknown_precisions_are_refused_before_any_work(precision, tmp_path):
    if precision == 'fp16' and torch.cuda.is_available():
        pytest.skip('a GPU computes in fp16')
    with pytest.raises(ValueError, match=f"mixed_precision must be one of .*'bf16'.*, got '{precision}'"):
        train(
            KINDS['edm'](),
            load_images('digits', max_images=8),
            mixed_precision=precision,
            out=tmp_path / 'run',
            **QUICK,
        )
    assert not (tmp_path / 'run').exists()


def test_the_scale_of_fp16_is_kept_in_the_state(tmp_path):
    def parts():
        objective = _Objective(KINDS['edm'](), 0.0)
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


@pytest.mark.parametrize('seed', [2**40, 2**63 - 1])
def test_large_seeds_train(seed):
    result = train(KINDS['edm'](), load_images('digits', max_images=32), seed=seed, **QUICK | dict(steps=2))
    assert np.isfinite(result.losses).all()


def test_settings_and_fields_together_are_refused():
    with pytest.raises(ValueError, match='either settings or its fields by name, got settings and steps, lr'):
        train(KINDS['edm'](), load_images('digits', max_images=8), Settings(steps=1), steps=2, lr=1.0)
