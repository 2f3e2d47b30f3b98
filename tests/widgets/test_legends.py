"""What is written in the pictures of explorers: axes, units, what a number means, nothing over other text."""

from itertools import combinations

import numpy as np
import pytest
from PIL import ImageDraw
from small_explorers import EXPLORERS, SHAPED, directions, neighbours, panels, synthetic, trajectory

from difflow import SweepExplorer
from difflow.widgets import Panel, film_strip


@pytest.fixture
def written(monkeypatch):
    "The texts that are drawn, each with its box and the width of its picture"
    texts, draw = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, fill=None, font=None, anchor=None, **options):
        if str(text):
            texts.append((str(text), self.textbbox(xy, str(text), font, anchor), self.im.size[0]))
        return draw(self, xy, text, fill, font, anchor, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, 'text', text)
    return texts


def check(written):
    "Check that every text is in its picture and over no other one; return all of them"
    for text, (left, _, right, _), width in written:
        assert left >= 0 and right <= width + 1, text
    for (one, a, _), (other, b, _) in combinations(written, 2):
        across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert across <= 1 or down <= 1, f'{one!r} over {other!r}'
    return [text for text, _, _ in written]


@pytest.mark.parametrize('make', EXPLORERS, ids=lambda make: make.__name__)
def test_no_text_is_over_another_one(make, written):
    explorer = make()
    written.clear()
    explorer.static()
    assert check(written)


def test_a_film_strip_has_axes_and_legends(written):
    images = np.zeros((26, 28, 28, 1), np.uint8)
    names = ['returned by a model with a very long name', 'noised']
    sigmas = [None if k == 25 else 0.123456 * k**2 for k in range(26)]
    numbers = [Panel('probability', {'a class': [0.5] * 26}), Panel('cosine', {'first': [1.0] * 26}, 'lines')]
    film_strip(dict.fromkeys(names, images), range(26), 13, panels=numbers, sigmas=sigmas)
    texts = check(written)
    assert texts.count('step_reverse') == 2 and 'sigma' in texts  # the levels once more below the panels
    assert {'13', f'{0.123456 * 13**2:.3g}', 'inf'} <= set(texts)
    assert {'0', '0.5', '1', 'probability', 'a class', 'cosine', 'first', 'noised'} <= set(texts)
    (short,) = [text for text in texts if text.startswith('returned')]
    assert short.endswith('...') and len(short) > 15


def test_the_static_sweep_shows_its_noise_levels(written):
    explorer = SweepExplorer(SHAPED, SHAPED.mean[None], steps=4, levels=4, sampler='ddim', panels=panels)
    written.clear()
    explorer.static()
    assert {f'{sigma:.3g}' for sigma in explorer._levels['sigma']} <= set(check(written))


@pytest.mark.parametrize(
    'make, meanings',
    [
        (directions, ['singular value', 'no unit', 'in units of sigma', '12 sigma', 's = ']),
        (neighbours, ['cosine', '-1..1', 'threshold', '-0.5', 'N = 50']),
        (
            synthetic,
            ['real images of class an odd shade of grey', 'guidance 1', 'steps', 'OfClasses', 'Grey'],
        ),
        (trajectory, ['t', 'sigma', 'probability', 'share of the largest', '50']),
    ],
)
def test_static_pictures_name_what_their_numbers_are(make, meanings, written):
    explorer = make()
    written.clear()
    explorer.static()
    texts = ' '.join(check(written))
    assert [meaning for meaning in meanings if meaning not in texts] == []
