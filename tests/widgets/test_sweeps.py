"""The sweep explorer without a browser: what it has, what cancels what, what an error looks like."""

import base64
import io

import numpy as np
import pytest
import torch
from counting import DIGITS, X0, Counting, expected, pixels
from PIL import Image
from traitlets import TraitError

from difflow import GaussianDenoiser, ImageSet, Scheduler, SweepExplorer, ddim

SMALL = dict(steps=8, levels=4)


def explore(denoiser=None, images=DIGITS, **options):
    return SweepExplorer(denoiser or Counting(), images, **SMALL | options)


@pytest.mark.parametrize('background', [False, True])
def test_the_browser_gets_the_images_of_the_sweep(background):
    explorer = explore(background=background).wait(30)
    assert explorer.images.shape == (5, 1, 28, 28) and explorer.images.dtype == torch.float32
    assert (pixels(explorer._frames) == expected(explorer.images)).all()
    assert (pixels(explorer._original)[0] == expected(X0[:1])[0]).all()
    assert (pixels(explorer._frames)[0] == pixels(explorer._original)[0]).all()
    assert (pixels(explorer._noised)[0] == pixels(explorer._original)[0]).all()
    assert len(pixels(explorer._noised)) == 5 and len(np.unique(pixels(explorer._noised)[-1])) > 100
    assert len(pixels(explorer._thumbnails)) == len(DIGITS)
    assert (
        explorer._levels['step_reverse']
        == explorer.steps_reverse
        == explorer.sweep.steps_reverse
        == [0, 2, 4, 6, 8]
    )
    assert explorer._levels['snr'][0] is None and explorer._levels['snr'][1] > explorer._levels['snr'][-1]
    assert (explorer.progress, explorer.error) == (1, '')


def test_a_level_at_which_no_image_is_left(on_a_page):
    explorer = explore(convention='repo', step_reverse=8)
    assert explorer._levels['sigma'][-1] is None and explorer._levels['snr'][-1] is None
    assert explorer._levels['sigma'][:-1] == explorer.sweep.noised_sigmas.tolist()[:-1]
    with on_a_page(explorer) as page:
        texts = page.locator('.df-readout').inner_text()
        page.locator('input[type=range]').press('Home')
        at_none = page.locator('.df-readout').inner_text()
    assert texts.split() == ['step_reverse', '8', '/', '8', 't/T', '1.00', 'σ', '∞', 'SNR', '−∞']
    assert at_none.split()[-4:] == ['σ', '0', 'SNR', '∞']


def test_foreground_and_background_agree():
    assert torch.equal(
        explore(background=True, seed=3).wait(30).images, explore(background=False, seed=3).images
    )


def test_tensors_and_colour():
    x0 = torch.linspace(-1, 1, 2 * 3 * 8 * 6).reshape(2, 3, 8, 6)
    explorer = explore(GaussianDenoiser(x0.mean(0), 0.25), x0, image=1, sampler=ddim)
    assert explorer.sampler == 'ddim' and explorer.images.shape == (5, 3, 8, 6)
    assert (pixels(explorer._frames) == expected(explorer.images)).all()
    assert explorer.static().mode == 'RGB'


def test_large_images_get_small_thumbnails():
    explorer = explore(GaussianDenoiser(torch.zeros(1, 128, 64), 1.0), torch.zeros(3, 1, 128, 64))
    assert pixels(explorer._thumbnails).shape[:3] == (3, 64, 32)


def test_step_reverse_computes_nothing_and_takes_the_nearest_level():
    explorer, seen = explore(), []
    explorer.observe(lambda change: seen.append(change['new']), names='step_reverse')
    calls, frames = explorer._offered.denoisers['returned'].calls, explorer._frames
    for chosen, level in [(0, 0), (3, 2), (7, 6), (8, 8)]:
        explorer.step_reverse = chosen
        assert explorer.step_reverse == level
    assert seen == [0, 2, 6, 8]
    assert explorer._offered.denoisers['returned'].calls == calls and explorer._frames == frames


def test_choices_start_a_new_sweep():
    explorer = explore()
    before = explorer.images
    for name, value in dict(seed=1, image=2, sampler='ddim', steps=6).items():
        setattr(explorer, name, value)
        after = explorer.images
        assert after.shape != before.shape or not torch.equal(after, before), name
        before = after
    assert (
        explorer.steps_reverse == [0, 2, 3, 4, 6]
        and explorer._levels['step_reverse'] == explorer.steps_reverse
    )
    calls = explorer._offered.denoisers['returned'].calls
    explorer.seed = 1
    assert explorer._offered.denoisers['returned'].calls == calls


def test_levels_are_a_number_or_named():
    explorer = explore(steps=20, levels=[0, 20, 5, 5])
    assert (
        explorer.levels == [0, 5, 20] and explorer.steps_reverse == [0, 5, 20] == explorer.sweep.steps_reverse
    )
    assert len(pixels(explorer._frames)) == 3
    explorer.set_state({'levels': 2, 'step_reverse': 10})
    assert explorer.steps_reverse == [0, 10, 20] and explorer.step_reverse == 10
    explorer.levels = [7]
    assert explorer.step_reverse == 7
    with pytest.raises(ValueError, match='levels must be in 0..6, the steps, got 7'):
        explorer.steps = 6
    assert explorer.steps == 20


def test_all_images_are_on_a_page_of_thumbnails():
    explorer = explore(images=list(map(Image.fromarray, DIGITS.images[:, 0].numpy())), thumbnails=4, image=5)
    assert (explorer._page, explorer._shelf['start'], len(explorer._shelf['names'])) == (1, 4, 2)
    assert (pixels(explorer._thumbnails) == expected(X0[4:])).all()
    explorer.image = 1
    assert (explorer._page, explorer._shelf['count']) == (0, 6)
    assert (pixels(explorer._thumbnails) == expected(X0[:4])).all()
    explorer.set_state({'_page': 2})
    assert explorer._page == 0 and explorer.error == 'page must be an int in 0..1, got 2'


def test_pictures_answer_the_choices_that_they_name():
    denoiser = Counting()
    explorer, seen = explore(denoiser, background=True).wait(30), []
    explorer.observe(lambda change: seen.append((explorer._answered, explorer._share)), names='_answered')
    denoiser.gate.clear()
    explorer.seed = 3
    assert explorer._answered['seed'] == 0 and explorer._share == 1 and explorer.progress == 0
    denoiser.gate.set()
    explorer.wait(30)
    assert explorer._answered == dict(image=0, sampler='ddpm', steps=8, seed=3, label=None, levels=4)
    assert seen[0][0]['seed'] == 3 and seen[0][1] < 1 and explorer._share == 1


def test_step_reverse_keeps_its_share_of_the_steps():
    explorer = explore(steps=8, step_reverse=6)
    explorer.steps = 40
    assert explorer.step_reverse == 30
    explorer.steps = 2
    explorer.step_reverse = 2
    assert explorer.steps_reverse == [0, 1, 2] and explorer.step_reverse == 2


def test_a_newer_query_cancels_the_older_one():
    denoiser = Counting()
    denoiser.gate.clear()
    explorer = explore(denoiser, background=True)
    assert denoiser.inside.wait(30)
    for seed in range(1, 20):
        explorer.seed = seed
    denoiser.gate.set()
    explorer.wait(30)
    assert denoiser.calls == 1 + 8  # one step of the first sweep, none of the eighteen between
    assert torch.equal(explorer.images, explore(seed=19).images)


def test_wait_gives_up_after_a_while():
    denoiser = Counting()
    denoiser.gate.clear()
    explorer = explore(denoiser, background=True)
    assert denoiser.inside.wait(30)
    with pytest.raises(TimeoutError, match='0.05 s'):
        explorer.wait(0.05)
    assert explorer.progress < 1
    denoiser.gate.set()
    assert explorer.wait(30).progress == 1


def test_wait_inside_an_observer_does_not_deadlock():
    explorer, images = explore(background=True), []
    explorer.observe(lambda change: images.append(explorer.wait(30).images), names='seed')
    explorer.set_state({'seed': 5})
    assert torch.equal(images[0], explore(seed=5).images)


def test_a_closed_explorer_stops():
    denoiser = Counting()
    denoiser.gate.clear()
    explorer = explore(denoiser, background=True)
    assert denoiser.inside.wait(30)
    thread = explorer._thread
    explorer.close()
    denoiser.gate.set()
    thread.join(30)
    assert denoiser.calls == 1


@pytest.mark.parametrize('background', [False, True])
def test_errors_are_shown_in_one_line_and_raised_by_wait(background):
    denoiser = Counting()
    denoiser.error = RuntimeError('out of memory\nand a long story')
    explorer = explore(denoiser, background=background)
    with pytest.raises(RuntimeError, match='out of memory'):
        explorer.wait(30)
    assert explorer.error == 'RuntimeError: out of memory' and explorer.progress < 1
    denoiser.error = None
    explorer.seed = 1
    assert explorer.wait(30).error == '' and explorer.progress == 1


def test_states_are_shown_while_the_sweep_runs():
    explorer, seen = explore(steps=4, levels=2), []
    explorer.observe(lambda change: seen.append((explorer.progress, explorer._frames)), names='_frames')
    explorer.seed = 1
    (start, first), *_, (end, last) = seen
    assert start < end == 1 and last == explorer._frames
    assert first == explorer._noised and explorer._distances


def test_messages_from_the_browser():
    explorer = explore()
    explorer.set_state({'seed': 7, 'image': 2})
    assert torch.equal(explorer.images, explore(seed=7, image=2).images)
    explorer.set_state({'seed': -1})
    assert explorer.seed == 7 and explorer.error == 'seed must be an int in 0..4294967295, got -1'
    explorer.set_state({'steps': 'many'})
    assert explorer.steps == 8 and explorer.error == "steps must be an int in 1..1000, got 'many'"
    explorer.set_state({'levels': [0, 9]})
    assert explorer.error == 'levels must be in 0..8, the steps, got 9' and explorer.levels == 4
    explorer.set_state({'sampler': 'ddim'})
    assert explorer.error == ''


def test_the_class_follows_the_image_until_another_is_chosen():
    denoiser = Counting(num_classes=10, null_class=True)
    explorer = explore(denoiser)
    own = DIGITS.labels.tolist()
    assert explorer.label == own[0] and denoiser.labels.unique().tolist() == [own[0]]
    explorer.image = 1
    assert explorer.label == own[1] and denoiser.labels.unique().tolist() == [own[1]]
    explorer.label = None
    assert denoiser.labels is None
    explorer.image = 2
    assert explorer.label is None
    assert explorer._choices['classes'] == [[None, 'none']] + [[i, str(i)] for i in range(10)]
    assert explore(Counting(10), X0).label == 0 and explore(Counting(10, True), X0).label is None
    assert explore(Counting())._choices['classes'] == []


def test_static_picture():
    explorer = explore()
    picture = explorer.static()
    assert picture.mode == 'RGB' and picture.width > 5 * 28 and picture.height > 2 * 28
    explorer.step_reverse = 0
    assert explorer.static().tobytes() != picture.tobytes()
    data, _ = explorer._repr_mimebundle_()
    assert data['application/vnd.jupyter.widget-view+json']['model_id'] == explorer.model_id
    assert Image.open(io.BytesIO(base64.b64decode(data['image/png']))).size == picture.size
    assert data['text/plain'].startswith("SweepExplorer(returned; image=0, sampler='ddpm', steps=8, seed=0")


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, data, raw):
        self.shown.append(data['image/png'])


@pytest.mark.parametrize('background', [False, True])
def test_every_finished_sweep_redraws_the_displayed_picture(background):
    explorer, handle = explore(background=background).wait(30), Handle()
    explorer._handles.append(handle)
    for seed in (1, 2):
        explorer.seed = seed
        explorer.wait(30)
    fresh = [explore(seed=seed)._picture()['image/png'] for seed in (1, 2)]
    assert handle.shown == fresh and explorer._picture()['image/png'] == fresh[1]


def test_the_picture_is_that_of_the_last_finished_sweep_while_another_runs():
    denoiser = Counting()
    explorer = explore(denoiser, background=True).wait(30)
    explorer._handles.append(Handle())
    explorer.seed = 1
    explorer.wait(30)
    before = explorer._picture()
    denoiser.gate.clear()
    explorer.seed = 2
    assert explorer._answered['seed'] == 1 and explorer._picture() == before
    denoiser.gate.set()
    explorer.wait(30)
    assert explorer._answered['seed'] == 2 and explorer._picture() != before


def test_a_box_shows_the_pictures_of_its_explorers(python):
    shown = python(BOXES)
    assert shown.split() == ['boxed', '2', 'plain', '0']


BOXES = """
from ipywidgets import HBox, VBox, Label
from IPython.core.interactiveshell import InteractiveShell
import torch
shell, pictures = InteractiveShell.instance(), []
import difflow as df
from difflow.widgets.base import _show_in_boxes
images = torch.zeros(2, 1, 8, 8)
make = lambda: df.SweepExplorer(df.GaussianDenoiser(torch.zeros(1, 8, 8), 1.), images, steps=2, levels=1)
_show_in_boxes()
show = lambda data, **more: pictures.append('data-df-picture' in data.get('text/html', ''))
shell.display_pub.publish = show
shell.display_formatter.format(HBox([make(), VBox([make(), Label('a')])]))
print('boxed', sum(pictures))
pictures.clear()
data, _ = shell.display_formatter.format(HBox([Label('a')]))
assert 'application/vnd.jupyter.widget-view+json' in data
print('plain', sum(pictures))
"""


def test_fewer_steps_than_levels():
    explorer = SweepExplorer(Counting(), DIGITS, steps=3)
    assert explorer._levels['step_reverse'] == [0, 1, 2, 3] and len(explorer.images) == 4
    explorer.steps = 30
    assert len(explorer.images) == 26


BAD = [
    (dict(steps=0), 'steps must be an int in 1..1000, got 0'),
    (dict(steps=2.5), 'steps must be an int in 1..1000, got 2.5'),
    (dict(steps=1001), 'steps must be an int in 1..1000, got 1001'),
    (dict(levels=9), 'levels must be an int in 1..8, got 9'),
    (dict(levels=[0, 9]), 'levels must be in 0..8, the steps, got 9'),
    (dict(levels=[]), 'levels must be a number or at least one level'),
    (dict(thumbnails=0), 'thumbnails must be an int in 1..1000, got 0'),
    (dict(levels=0), 'levels must be an int in 1..8, got 0'),
    (dict(sampler='magic'), "sampler must be one of ddpm, ddim, euler, heun, dpmpp_2m, got 'magic'"),
    (dict(seed=-1), 'seed must be an int in 0..4294967295, got -1'),
    (dict(image=6), 'image must be an int in 0..5, got 6'),
    (dict(step_reverse=9), 'step_reverse must be an int in 0..8, got 9'),
    (dict(convention='magic'), "convention must be one of .*, got 'magic'"),
    (dict(steps=60, scheduler=Scheduler.karras(50)), 'must keep 1..50 of 50 levels, not 60'),
    (dict(label=3), 'label must be None for denoisers without classes, got 3'),
    (dict(denoiser=Counting(10), label=10), 'label must be an int in 0..9, got 10'),
    (dict(denoiser=Counting(10), label=None), 'label must be an int in 0..9, got None'),
    (dict(images=DIGITS.images[:0].float()), 'images must hold at least 1 image, got 0'),
    (dict(images=ImageSet(DIGITS.images[:0])), 'images must hold at least 1 image, got 0'),
    (dict(images=DIGITS.images), r'images must be floats in \[-1, 1\], not torch.uint8'),
    (dict(images=DIGITS.images.float()), r'images lies in \[0, 255\], allowed is \[-1, 1\]'),
    (dict(images=X0 * torch.nan), r'images: 4704 of 4704 values are NaN'),
    (dict(images=X0[0]), r'images must have shape \(B,C,H,W\), .*, not \(1, 28, 28\)'),
    (dict(images=X0.expand(-1, 2, -1, -1)), 'images must have 1 or 3 channels, got 2'),
    (dict(images='mnist5k'), 'images must be an ImageSet, PIL images, or a tensor .*, got str'),
    (
        dict(images=X0[..., :14]),
        r"denoiser 'returned' takes images of shape \(1, 28, 28\), got \(1, 28, 14\)",
    ),
    (dict(denoiser='mnist'), "denoiser 'returned' must be a Denoiser .see load_denoiser., got str"),
]


@pytest.mark.parametrize('options, message', BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named_before_any_work(options, message):
    denoiser = options.get('denoiser', Counting())
    with pytest.raises(ValueError, match=message):
        explore(**{'denoiser': denoiser} | options)
    assert getattr(denoiser, 'calls', 0) == 0


WRONG = dict(image=6, steps=0, seed=-1, sampler='magic', label=1, step_reverse=9)


@pytest.mark.parametrize('name, value', WRONG.items())
def test_bad_assignments_leave_the_value(name, value):
    explorer = explore()
    before, calls = getattr(explorer, name), explorer._offered.denoisers['returned'].calls
    with pytest.raises(ValueError, match=name):
        setattr(explorer, name, value)
    with pytest.raises(TraitError):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == before and explorer._offered.denoisers['returned'].calls == calls
