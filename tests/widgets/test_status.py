"""What a view says of itself: whose answer it shows, what is under way or refused, is a kernel there?"""

import base64

import numpy as np
import pytest
import torch
from counting import DIGITS, Counting, expected, pixels

from difflow import ImageSet, SweepExplorer
from difflow.widgets.strips import _sheet

RECEIVE = """([blobs, values, oneByOne]) => {
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const buffers = Object.fromEntries(Object.entries(blobs).map(([name, text]) => [name, bytes(text)]));
  receive({ ...buffers, ...values }, oneByOne);
}"""
WIDE = """() => Promise.all([new Promise(requestAnimationFrame), new Promise((f) => setTimeout(f, 50))])"""


def explore(**options):
    return SweepExplorer(Counting(), DIGITS, **dict(steps=8, levels=4, background=False) | options)


def send(page, explorer, names, one_by_one=False):
    "Bring traits of an explorer to the page, as a message from Python does."
    values = {name: getattr(explorer, name) for name in names}
    blobs = {name: base64.b64encode(v).decode() for name, v in values.items() if isinstance(v, bytes)}
    rest = {name: v for name, v in values.items() if name not in blobs}
    page.evaluate(RECEIVE, [blobs, rest, one_by_one])


def is_dimmed(page):
    return page.locator('.df-explorer.df-waiting').count() == 1


ANSWER = '_levels', '_noised', '_original', '_frames', '_distances', '_answered', '_share', 'progress'


@pytest.mark.parametrize('one_by_one', [False, True])
def test_pictures_wait_until_the_answer_to_the_choice_is_there(on_a_page, pixels_of, one_by_one):
    explorer = explore()
    with on_a_page(explorer) as page:
        returned = page.locator('canvas[data-panel="returned"]')
        assert not is_dimmed(page) and page.locator('[role=status]').inner_text() == ''
        page.locator('input[data-choice=seed]').fill('5')
        page.keyboard.press('Tab')
        assert page.evaluate('sent') == [{'seed': 5}]
        before = pixels_of(returned)
        assert is_dimmed(page) and page.locator('[role=status]').inner_text() == 'waiting'
        assert page.locator('.df-explorer').get_attribute('aria-busy') == 'true'
        explorer.seed = 5
        send(page, explorer, ANSWER, one_by_one)
        page.locator('.df-explorer:not(.df-waiting)').wait_for()
        assert page.locator('.df-explorer').get_attribute('aria-busy') == 'false'
        shown = pixels_of(returned)
        i = explorer.steps_reverse.index(explorer.step_reverse)
        assert (shown == expected(explorer.images)[i]).all() and (shown != before).any()


def test_an_answer_to_another_choice_leaves_the_pictures_waiting(on_a_page):
    explorer = explore()
    with on_a_page(explorer, seed=7) as page:
        assert is_dimmed(page)
        explorer.seed = 6  # the one before
        send(page, explorer, ANSWER)
        page.evaluate(WIDE)
        assert is_dimmed(page)
        explorer.seed = 7
        send(page, explorer, ANSWER)
        page.locator('.df-explorer:not(.df-waiting)').wait_for()


def test_a_level_is_called_returned_once_it_has_come_back(on_a_page):
    explorer = explore(step_reverse=4)
    caption = '.df-stage figure:last-of-type figcaption span'
    with on_a_page(explorer, _share=0.25, progress=0.25, _distances=[]) as page:  # the walk is at step 6 of 8
        captions = {}
        for key, level in (('Home', 0), ('End', 8)):
            page.locator('input[type=range]').press(key)
            captions[level] = page.locator(caption).inner_text()
            if level == 0:
                for _ in range(2):
                    page.locator('input[type=range]').press('ArrowRight')
                captions[4] = page.locator(caption).inner_text()
        assert captions == {0: 'returned', 4: 'returned: not begun yet', 8: 'returned: on its way back'}
        assert page.locator('[role=status]').inner_text() == 'computing, 25 %'


def test_what_is_not_allowed_goes_to_python_and_its_sentence_is_shown(on_a_page):
    explorer = explore()
    with on_a_page(explorer) as page:
        for choice, text in (('steps', '-3'), ('levels', '0, x'), ('steps', '')):
            page.locator(f'input[data-choice={choice}]').fill(text)
            page.locator(f'input[data-choice={choice}]').blur()
        sent = page.evaluate('sent')
        assert sent == [{'steps': -3}, {'levels': [0, 'x']}, {'steps': ''}]
        sentences = []
        for message in sent:
            explorer.set_state(message)
            sentences.append(explorer.error)
        assert sentences == [
            'steps must be an int in 1..1000, got -3',
            "levels must be an int in 0..1000, got 'x'",
            "steps must be an int in 1..1000, got ''",
        ]
        send(page, explorer, ['error', 'steps', 'levels'])
        page.locator('.df-error', has_text=sentences[-1]).wait_for()
        assert page.locator('input[data-choice=steps]').input_value() == '8'
        assert not is_dimmed(page)


def test_no_word_from_a_kernel_is_said_after_a_while(on_a_page):
    with on_a_page(explore(), seed=1) as page:
        page.locator('[role=status]', has_text='no word from the kernel for 4 s').wait_for()


def test_a_page_without_a_kernel_says_so_and_still_scrubs(on_a_page, pixels_of):
    explorer = explore()
    with on_a_page(explorer, _static=True) as page:
        assert 'no kernel' in page.locator('[role=status]').inner_text()
        assert page.locator('[data-asks]:not(:disabled)').count() == 0 < page.locator('[data-asks]').count()
        page.locator('input[type=range]').press('End')
        returned = page.locator('canvas[data-panel="returned"]')
        assert (pixels_of(returned) == expected(explorer.images)[-1]).all()


def test_pages_of_thumbnails_are_turned_and_every_image_can_be_chosen(on_a_page, pixels_of):
    images = ImageSet.of(DIGITS.tensor().repeat(3, 1, 1, 1))
    explorer = SweepExplorer(Counting(), images, steps=8, levels=4, thumbnails=7, background=False)
    with on_a_page(explorer) as page:
        buttons = page.locator('.df-thumbnails button')
        assert buttons.count() == 7 and page.locator('.df-shelf small').inner_text() == 'of 0..17'
        page.get_by_label('Images after these').click()
        assert page.evaluate('sent') == [{'_page': 1}]
        explorer.set_state({'_page': 1})
        send(page, explorer, ['_page', '_shelf', '_thumbnails'])
        page.locator(f'.df-thumbnails button[title="{images.names[7]}"]').wait_for()
        assert (pixels_of(buttons.nth(2).locator('canvas')) == expected(images.tensor([9]))[0]).all()
        buttons.nth(2).click()
        assert page.evaluate('sent')[-1] == {'image': 9}


def test_what_was_listened_to_is_let_go(on_a_page):
    with on_a_page(explore()) as page:
        assert page.evaluate('listening()') > 10
        page.evaluate('end()')
        assert page.evaluate('listening()') == 0 and page.locator('.df-explorer').count() == 0


@pytest.mark.parametrize('shape', [(5, 1, 28, 28), (26, 3, 8, 20), (1, 1, 4, 4), (3, 3, 64, 64)])
def test_a_sheet_has_every_picture_exactly(shape):
    x = (np.random.default_rng(0).integers(0, 256, shape) / 127.5 - 1).astype('float32')
    assert (pixels(_sheet(torch.from_numpy(x))) == expected(torch.from_numpy(x))).all()


def test_large_pictures_are_compressed_and_first_small():
    x = torch.linspace(-1, 1, 256).expand(26, 3, 256, 256)
    whole, draft = _sheet(x), _sheet(x, draft=True)
    assert pixels(whole).shape == (26, 256, 256, 3) and pixels(draft).shape == (26, 64, 64, 3)
    assert np.abs(pixels(whole) - expected(x).astype(float)).mean() < 4 and len(draft) < len(whole)
    noise = torch.rand(4, 3, 1600, 1600, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert pixels(_sheet(noise)).shape == (4, 1000, 1000, 3)  # a sheet has at most 3,000 px
