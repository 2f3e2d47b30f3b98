"""Every explorer at every width in a browser: what fits, is in sight, keeps its place; what numbers mean."""

import io

import numpy as np
import pytest
from PIL import Image
from small_explorers import EXPLORERS, sweeps

WIDTHS = 250, 350, 550, 950, 1600
APART = (
    '.df-stage canvas, .df-stage figcaption, .df-readout > div, .df-controls > *, .df-shelf, .df-wall,'
    '.df-status, .df-film > *, .df-side > *, .df-titles > span, .df-key span, .df-legend, .df-row-title,'
    '.df-line, .df-marks, .df-bar'
)
MEASURE = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)].filter((node) => (
    node.checkVisibility({ visibilityProperty: true }) && node.getBoundingClientRect().width));
  const box = (node) => {
    const { left, right, top, bottom, width } = node.getBoundingClientRect();
    return { left, right, top, bottom, width };
  };
  const film = document.querySelector('.df-film');
  const visible = (node) => { // a strip is cut off where it is too wide
    const [own, frame] = [box(node), film?.contains(node) ? box(film) : box(node)];
    return { ...own, left: Math.max(own.left, frame.left), right: Math.min(own.right, frame.right) };
  };
  const over = (a, b) => {
    if (a.contains(b) || b.contains(a)) return false;
    const [p, q] = [visible(a), visible(b)];
    const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    return across > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1;
  };
  const name = (node) => node.className || node.tagName;
  const parts = all('APART');
  const overlaps = parts.flatMap((a, i) => parts.slice(i + 1).filter((b) => over(a, b))
    .map((b) => `${name(a)} over ${name(b)}`));
  const rows = {};
  for (const tick of all('.df-tick, .df-under')) {
    const range = document.createRange();
    range.selectNodeContents(tick);
    (rows[Math.round(box(tick).top)] ??= []).push(box(range));
  }
  const crowded = Object.values(rows).flatMap((row) => row.sort((a, b) => a.left - b.left)
    .filter((tick, i) => i && tick.left < row[i - 1].right));
  const root = document.querySelector('.df-explorer');
  return {
    across: [root.scrollWidth, root.clientWidth, document.documentElement.scrollWidth - window.innerWidth],
    room: document.querySelector('.df-body').clientWidth,
    pictures: all('.df-stage canvas').map(box),
    readout: all('.df-readout > div').map(box),
    cut: all('.df-readout dd').filter((dd) => dd.scrollWidth > dd.clientWidth + 1).map(name),
    chosen: all('.df-strip [aria-selected=true], .df-thumbnails [aria-checked=true]')
      .map((node) => [box(node), box(node.closest('.df-film, .df-thumbnails'))]),
    below: box(document.querySelector('.df-reel, .df-last, .df-row')).top,
    astray: all('.df-strip canvas').filter((canvas) => {
      const [own, column] = [box(canvas), box(canvas.parentNode)];
      return own.left < column.left - 0.5 || own.right > column.right + 0.5;
    }).length,
    overlaps, crowded,
  };
}""".replace('APART', APART)
UNNAMED = """() => {
  const walk = document.createTreeWalker(document.querySelector('.df-body'), NodeFilter.SHOW_TEXT);
  const unnamed = [];
  while (walk.nextNode()) {
    const node = walk.currentNode.parentNode;
    const named = node.closest('[title]:not([title=""])') || node.closest('svg title, option');
    if (/\\d/.test(walk.currentNode.data) && !named) unnamed.push(walk.currentNode.data);
  }
  return unnamed;
}"""
SETTLED = '() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))'


def measured(page, width):
    "Make the page `width` px wide and return where everything is"
    page.set_viewport_size({'width': width + 16, 'height': 900})
    page.wait_for_function(f'document.querySelector(".df-explorer").clientWidth === {width}')
    page.evaluate(SETTLED)
    return page.evaluate(MEASURE)


def first_row(pictures):
    return [picture for picture in pictures if abs(picture['top'] - pictures[0]['top']) < 1]


@pytest.fixture(scope='module', params=EXPLORERS, ids=lambda make: make.__name__)
def explorer(request):
    return request.param()


def test_layout(explorer, on_a_page):
    "Nothing is too wide or over something else; pictures use the width; what is chosen is in sight"
    with on_a_page(explorer, width=WIDTHS[0]) as page:
        unnamed, sizes = page.evaluate(UNNAMED), {}
        for width in (*WIDTHS, 350):
            seen = measured(page, width)
            sizes[width] = check(seen, width)
            shot = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert('L'))
            for picture in seen['pictures']:  # nothing hides a picture, and it is not blank
                part = slice(int(picture['top']) + 2, int(picture['bottom']) - 2)
                pixels = shot[part, int(picture['left']) + 2 : int(picture['right']) - 2]
                assert len(np.unique(pixels)) > 3, (width, picture)
            page.evaluate("receive({ error: 'seed must be an int in 0..4294967295, got -1' })")
            page.locator('.df-error').filter(has_text='seed must be').wait_for()
            assert page.evaluate(MEASURE)['below'] == seen['below'], 'an error moves what is below it'
            page.evaluate("receive({ error: '' })")
    assert sizes[1600] > sizes[950] and unnamed == []


def check(seen, width):
    "Check what was measured at a width, and return the width of the pictures"
    scrolled, client, beyond = seen['across']
    assert scrolled <= client == width and beyond <= 0
    assert seen['overlaps'] == [] and seen['crowded'] == [] and seen['cut'] == [] and seen['astray'] == 0
    row, pictures = first_row(seen['pictures']), seen['pictures']
    used = sum(picture['width'] for picture in row) / seen['room']
    assert used >= 0.85 or row[0]['width'] >= 0.85 * 512, used
    assert len(row) >= min(3, len(pictures)) or width < 400
    if width >= 350 and seen['readout']:
        tops = [part['top'] for part in seen['readout']]
        assert max(tops) - min(tops) < 1, 'the read-out is not in one line'
    for part, scroller in seen['chosen']:
        assert scroller['left'] - 1 <= part['left'] and part['right'] <= scroller['right'] + 1
    return row[0]['width']


def test_the_longest_read_out_is_in_one_line(on_a_page):
    explorer = sweeps()
    with on_a_page(explorer, width=350) as page:
        page.evaluate("""receive({
          steps: 1000, step_reverse: 1000, _answered: { ...state._answered, steps: 1000 },
          _levels: { ...state._levels, step_reverse: state._levels.step_reverse.map((r) => r * 40) },
        })""")
        page.locator('.df-readout dd', has_text='1000 / 1000').wait_for()
        seen = measured(page, 350)
        check(seen, 350)
    assert seen['readout'][-1]['right'] <= 350 + 8
