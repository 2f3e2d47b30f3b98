"""Film strips: which frames are drawn, where, and that their pixels are those of the images."""

import numpy as np
import pytest

from difflow.widgets import Panel, film_strip
from difflow.widgets.strips import _layout

BLACK = np.zeros((101, 32, 32, 1), np.uint8)


@pytest.mark.parametrize(
    'count, current, width', [(101, 57, 600), (30, 0, 900), (2, 1, 50), (1, 0, 300), (7, 3, 1100)]
)
def test_drawn_are_the_ends_the_current_frame_and_evenly_spaced_ones(count, current, width):
    chosen = _layout({'a': BLACK[:count]}, current, width, {}).chosen
    assert chosen == sorted(set(chosen)) and {0, current, count - 1} <= set(chosen)
    gaps = np.diff([i for i in chosen if i != current or i in (0, count - 1)])
    assert len(chosen) == count or gaps.max() <= 2 * gaps.min() + 1


def test_every_frame_is_drawn_pixel_by_pixel():
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 256, (4, 16, 20, 3)).astype(np.uint8) for name in 'ab'}
    layout = _layout(rows, 2, 1100, {})
    drawn = np.asarray(film_strip(rows, range(4), 2))
    for name, frames in rows.items():
        for column, i in enumerate(layout.chosen):
            x, y = layout.left(column) + 2, layout.tops[name] + 2
            shown = drawn[y : y + 16 * layout.scale : layout.scale, x : x + 20 * layout.scale : layout.scale]
            assert (shown == frames[i]).all()


def test_panels_are_checked():
    frames = {'a': BLACK[:3]}
    with pytest.raises(ValueError, match='expected 3 numbers, got 2'):
        film_strip(frames, range(3), panels=[Panel('p', {'x': [0.0, 1.0]})])


def test_frames_that_do_not_fit_are_left_out():
    assert film_strip({'a': BLACK}, range(101), 57, width=600).width < 800
