"""The direction explorer without a browser: what it holds, what is refused, and its script."""

from types import SimpleNamespace

import pytest
import torch
from counting import pixels
from torch import nn
from traitlets import TraitError

from difflow import Denoiser, DirectionExplorer, MoLRG, VEDenoiser
from difflow.data import to_uint8
from difflow.jacobians import trajectory
from difflow.widgets import directions
from difflow.widgets.directions import _direction_states

MIXTURE = MoLRG(2, 48, 3, seed=0)
SMALL = dict(sigmas=(2.0, 1.0), sigma=1.0, directions=2, strengths=(-2, 0, 2), steps=4)


def explore(denoiser=MIXTURE.denoiser, **options):
    return DirectionExplorer(denoiser, **SMALL | options)


@pytest.mark.parametrize('background', [False, True])
def test_the_browser_gets_the_edited_images(background):
    explorer = explore(background=background, seed=4).wait(60)
    assert explorer.progress == 1 and explorer.error == '' and explorer.images.shape == (2, 3, 3, 4, 4)
    frames = pixels(explorer._frames)
    assert (frames == to_uint8(explorer.images.flatten(0, 1).clamp(-1, 1)).movedim(1, -1).numpy()).all()
    assert (
        len(pixels(explorer._vectors)) == 2
        and len(pixels(explorer._state)) == 1
        and len(explorer._values) == 2
    )
    assert explorer._values[0] >= explorer._values[1]
    assert '_esm' in type(explorer).__dict__ and explorer.static().mode == 'RGB'


def test_a_choice_starts_anew():
    explorer = explore()
    before = explorer.images
    explorer.seed = 5
    assert not torch.equal(before, explorer.images)
    explorer.seed = 0
    assert torch.equal(before, explorer.images)
    explorer.label = 1
    kept = MIXTURE.bases[1] @ MIXTURE.bases[1].T  # every edited image lies in the subspace of its class
    rows = explorer.images.flatten(2).double()
    assert (rows - rows @ kept).abs().max() < 1e-4


def test_states_come_one_direction_at_a_time():
    states = list(_direction_states(MIXTURE.denoiser, 1.0, 0, None, 3, [0.0, 1.0], 3))
    assert [len(state.images) for state in states] == [0, 1, 2, 3]
    assert all(torch.equal(a.vectors, states[0].vectors) for a in states)


def test_label_goes_where_the_model_is(monkeypatch):
    "Labels are made where the numbers of the model are, here on a device that only has shapes"

    class Elsewhere(Denoiser):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, device='meta'))

        def denoise(self, x, sigma, labels):
            return x

    seen = []

    def walk(denoiser, **options):
        seen.append(options['labels'])
        return iter([(1.0, torch.zeros(1, 1, 2, 2))])

    leading = SimpleNamespace(values=torch.ones(1, 1), right=torch.ones(1, 1, 1, 2, 2))
    monkeypatch.setattr(directions, 'trajectory', walk)
    monkeypatch.setattr(directions, 'singular_directions', lambda *args: (seen.append(args[4]), leading)[1])
    next(_direction_states(Elsewhere(), 1.0, 0, 1, 1, [0.0], 2))
    assert [labels.device.type for labels in seen] == ['meta', 'meta']


class Broken(Denoiser):
    image_shape = (1, 2, 2)

    def denoise(self, x, sigma, labels):
        raise RuntimeError('broken inside')


@pytest.mark.parametrize('background', [False, True])
def test_a_failure_is_shown_and_raised(background):
    explorer = DirectionExplorer(Broken(), background=background)
    with pytest.raises(RuntimeError, match='broken inside'):
        explorer.wait(60)
    assert explorer.error == 'RuntimeError: broken inside'


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(strengths=(1, 2)), 'must ascend and contain 0'),
        (dict(strengths=(2, 0)), 'must ascend and contain 0'),
        (dict(sigma=3.0), 'sigma must be one of'),
        (dict(sigmas=()), 'at least one level'),
        (dict(sigmas=(-1.0, 1.0)), 'got -1'),
        (dict(directions=17), 'directions must be an int in 1..16'),
        (dict(seed=-1), 'seed must be'),
        (dict(label=2 + 1), 'labels must be in 0..1'),
        (dict(steps=0), 'steps must be an int in 1..1000'),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        explore(**options)


def test_levels_outside_the_denoiser():
    denoiser = VEDenoiser(nn.Identity())
    denoiser.image_shape = (1, 2, 2)
    with pytest.raises(ValueError, match='sigma must be in 0.02..100, got 200'):
        DirectionExplorer(denoiser, sigmas=(200.0, 1.0), sigma=1.0)


def test_refused_assignments_leave_everything():
    explorer = explore()
    for name, value in (('strength', 1.0), ('direction', 2), ('sigma', 1.5), ('label', 9), ('seed', 2**40)):
        before = getattr(explorer, name)
        with pytest.raises((ValueError, TraitError)):
            setattr(explorer, name, value)
        assert getattr(explorer, name) == before
    explorer.set_state({'strength': 1.0})
    assert 'strength must be one of' in explorer.error


def test_frames_are_chosen_in_a_browser(on_a_page, pixels_of):
    "On a page of its own a click and an arrow key choose a frame, and the canvas shows its pixels"
    explorer = explore(directions=3, strengths=(-2, -1, 0, 1, 2))
    with on_a_page(explorer) as page:
        page.locator('.df-strip').nth(1).locator('[role=option]').nth(4).click()
        assert page.evaluate('[state.direction, state.strength]') == [1, 2]
        page.locator('input[type=range]').press('ArrowLeft')
        assert page.evaluate('[state.direction, state.strength]') == [1, 1]
        shown = pixels_of(page.locator('[data-panel=edited]'))
    assert (shown == to_uint8(explorer.images[1, 3].clamp(-1, 1)).movedim(0, -1).numpy()).all()


# Principal components of the posterior


def test_the_posterior_is_shown_along_its_components():
    "Frames are the mean, so many standard deviations along each component; their values stand beside them"
    explorer = explore(basis='posterior', strengths=(-2, 0, 1), seed=4)
    ((_, x),) = trajectory(MIXTURE.denoiser, seeds=[4], steps=4, at=[1.0])
    covariance = MIXTURE.denoiser.jacobian(x, 1.0)[0].double()  # sigma is 1
    variances, basis = torch.linalg.eigh(covariance)
    true = variances.flip(0)[:2].clamp(min=0).sqrt()
    torch.testing.assert_close(torch.tensor(explorer._values).double(), true, atol=1e-4, rtol=0)
    mean, rows = MIXTURE.denoiser(x, 1.0)[0], explorer.images.double()
    for row, sd in zip(rows, true):
        torch.testing.assert_close(row[1], mean.double(), atol=1e-5, rtol=0)
        moved = (row - row[1]).flatten(1)
        torch.testing.assert_close(
            moved.norm(dim=1), sd * torch.tensor([2.0, 0.0, 1.0]).double(), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(moved[0], -2 * moved[2], atol=1e-4, rtol=0)
        torch.testing.assert_close(moved[2] @ covariance, sd**2 * moved[2], atol=1e-4, rtol=0)


def test_the_basis_decides_words_and_strengths():
    edited, posterior = explore(strengths=None), explore(strengths=None, basis='posterior')
    assert max(edited._choices['strengths']) == 12 and max(posterior._choices['strengths']) == 4
    assert (edited._choices['basis'], posterior._choices['basis']) == ('singular', 'posterior')
    assert posterior.static().size[0] > 0 and "basis='posterior'" in posterior.code()
    with pytest.raises(ValueError, match='basis must be one of singular, posterior, got'):
        explore(basis='pca')


def test_the_page_names_what_it_shows(on_a_page, pixels_of):
    explorer = explore(basis='posterior', strengths=(-1, 0, 1))
    with on_a_page(explorer) as page:
        text = page.locator('.df-explorer').inner_text()
        assert 'standard deviation' in text and '1 sd' in text and 'singular' not in text
        page.locator('.df-strip').nth(1).locator('[role=option]').nth(2).click()
        sd = explorer._values[1]
        assert f'standard deviation {sd:.3f}' in page.locator('.df-explorer').inner_text()
        shown = pixels_of(page.locator('[data-panel=posterior]'))
    assert (shown == to_uint8(explorer.images[1, 2].clamp(-1, 1)).movedim(0, -1).numpy()).all()
