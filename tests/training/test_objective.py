"""The objective: no copy that a GPU waits for, and random numbers by row."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from training_networks import DENOISERS

from difflow import Scheduler, normal
from difflow.noise import integers_on_device, uniform
from difflow.training.objective import _draw, _Objective


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
            lambda: integers_on_device([1, 2], 'meta'),
        ):
            with pytest.raises(AssertionError, match='copies'):
                copy()


@pytest.mark.parametrize('kind', DENOISERS)
def test_nothing_of_a_loss_is_copied_to_the_device_or_read_from_it(kind):
    "The meta device has no numbers: what reads one fails there, as a wait on a GPU would not"
    objective = _Objective(DENOISERS[kind](), 0.1).to('meta')
    x0, labels = torch.empty(6, 1, 8, 8, device='meta'), torch.empty(6, dtype=torch.int64, device='meta')
    step = lambda k: objective(x0, labels, _draw(k, range(1, 12, 2), 12, (1, 8, 8), 3, 'meta')).backward()
    step(0)  # tables are copied once
    with NoCopies():
        step(1)


@pytest.mark.parametrize('rows', [range(8), range(1, 8, 3), range(7, -1, -2), range(0)])
def test_a_range_of_images_is_a_list_of_them(rows):
    for make in (normal, uniform):
        assert torch.equal(make((len(rows), 5), 7, 2, 1, rows), make((len(rows), 5), 7, 2, 1, list(rows)))
    with pytest.raises(ValueError, match='images must be an integer in'):
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
