"""The synthetic explorer without a kernel: what it holds, what is refused, and its script in a browser."""

import pytest
import torch
from counting import pixels
from small_explorers import Grey, OfClasses
from traitlets import TraitError

from difflow import ImageSet, SyntheticExplorer, labelled_samples
from difflow.data import to_uint8
from difflow.widgets.synthetic import _class_states, _classify

REAL = ImageSet(
    (torch.arange(20) % 3 * 64 + 64)[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8).contiguous(),
    torch.arange(20) % 3,
    classes=['dark', 'grey', 'light'],
)
SMALL = dict(steps=3, guidances=(0.0, 1.0, 2.0), steps_offered=(1, 3, 6), count=5)


class ClassMeans(OfClasses):
    "The same denoiser, of small images"

    image_shape = (1, 4, 4)


def explore(denoiser=None, images=REAL, classifier=None, **options):
    return SyntheticExplorer(denoiser or ClassMeans(), images, classifier or Grey(), **SMALL | options)


@pytest.mark.parametrize('background', [False, True])
def test_the_browser_gets_the_samples(background):
    explorer = explore(background=background, label=2, seed=4).wait(60)
    expected = labelled_samples(ClassMeans(), {2: 5}, seed=4, steps=3)
    assert explorer.progress == 1 and explorer.error == '' and explorer.images.shape == (5, 1, 4, 4)
    made = pixels(explorer._made)[..., 0]
    assert (made == expected.images[:, 0].numpy()).all()
    assert (pixels(explorer._real) == 192).all() and explorer._counts == {
        'real': 5,
        'made': 5,
    }
    assert [answer for answer, _ in explorer.answers['real']] == [2] * 5 and explorer.static().mode == 'L'


def test_predictions_are_the_likeliest_class():
    answers = _classify(Grey(), torch.tensor([-0.5, 0.45])[:, None, None, None].expand(2, 1, 4, 4))
    assert [answer for answer, _ in answers] == [0, 2] and all(share > 0.9 for _, share in answers)


def test_guidance_moves_away_from_no_class():
    explorer = explore(label=2)
    mean = {}
    for w in (0.0, 1.0, 2.0):
        explorer.guidance = w
        mean[w] = explorer.images.mean().item()
    assert mean[0.0] < 0.2 < mean[1.0] < mean[2.0]


def test_choices_start_anew_and_are_remembered(monkeypatch):
    import difflow.widgets.synthetic as module

    explorer = explore()
    first, calls = explorer.images, []
    monkeypatch.setattr(module, '_class_states', lambda *args: calls.append(args) or _class_states(*args))
    explorer.seed = 7
    assert not torch.equal(first, explorer.images) and len(calls) == 1
    explorer.seed = 0
    assert torch.equal(first, explorer.images) and len(calls) == 1
    explorer.label = 1
    assert len(calls) == 2 and (pixels(explorer._real) == 128).all()


def test_a_step_at_a_time():
    states = list(_class_states(ClassMeans(), 1, 4, steps=6))
    assert len(states) == 6 and all(state.shape == (4, 1, 4, 4) for state in states)


def test_few_real_images_leave_room():
    explorer = explore(images=REAL[:4], label=1)  # one image of class 1
    assert explorer._counts == {'real': 1, 'made': 5} and len(explorer.answers['real']) == 1
    assert explorer.static().size[0] > 5 * 64


class Broken(ClassMeans):
    def denoise(self, x, sigma, labels):
        raise RuntimeError('broken inside')


@pytest.mark.parametrize('background', [False, True])
def test_a_failure_is_shown_and_raised(background):
    explorer = explore(Broken(), background=background)
    with pytest.raises(RuntimeError, match='broken inside'):
        explorer.wait(60)
    assert explorer.error == 'RuntimeError: broken inside'


class Plain(ClassMeans):
    num_classes = None


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(denoiser=Plain()), 'needs a denoiser with classes'),
        (dict(images=ImageSet(REAL.images)), 'one label each'),
        (dict(images=ImageSet(REAL.images[:, :, :3], REAL.labels)), 'the denoiser makes'),
        (dict(images=ImageSet(REAL.images, REAL.labels + 1)), 'labels up to 3'),
        (dict(label=3), 'label must be an int in 0..2'),
        (dict(steps=2), 'steps must be one of'),
        (dict(guidance=9.0), 'guidance must be one of'),
        (dict(seed=-1), 'seed must be'),
        (dict(count=17), 'count must be an int in 1..16'),
        (dict(guidances=(1.0, float('nan'))), 'must be finite'),
        (dict(steps_offered=(0, 3)), 'steps >= 1'),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        explore(**options)


def test_without_a_null_class_there_is_no_guidance():
    denoiser = ClassMeans()
    denoiser.null_class = False
    assert explore(denoiser)._choices['guidances'] == [1.0]


def test_refused_assignments_leave_everything():
    explorer = explore()
    for name, value in (('steps', 2), ('guidance', 0.3), ('label', 3), ('seed', 2**40)):
        before = getattr(explorer, name)
        with pytest.raises((ValueError, TraitError)):
            setattr(explorer, name, value)
        assert getattr(explorer, name) == before
    explorer.set_state({'steps': 2})
    assert 'steps must be one of' in explorer.error


def test_rows_and_sliders_in_a_browser(on_a_page, pixels_of):
    "On a page of its own pixels are those of Python, a wrong answer is marked, a key moves a slider"
    explorer = explore(label=2)
    explorer._predictions = dict(explorer._predictions, made=[[0, 0.75], *[[2, 0.9]] * 4])
    with on_a_page(explorer) as page:
        row = page.locator('[data-row=synthetic]')
        captions, wrong = (
            row.locator('figcaption').all_text_contents(),
            row.locator('.df-wrong').all_text_contents(),
        )
        total = row.locator('small').text_content()
        page.locator('input[aria-label=guidance]').press('ArrowRight')
        guidance = page.evaluate('state.guidance')
        shown = pixels_of(row.locator('canvas').nth(1))
    assert guidance == 2 and wrong == ['dark 75 %'] == captions[:1] and total == '4 of 5 named right'
    assert (shown[..., 0] == to_uint8(explorer.images[1, 0]).numpy()).all()
