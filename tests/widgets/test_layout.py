"""Every explorer at every width in a browser: what fits, is in sight, keeps its place; what numbers mean."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from difflow import (
    CompareExplorer,
    ConcatMixer,
    Denoiser,
    DirectionExplorer,
    GaussianDenoiser,
    ImageSet,
    NeighbourExplorer,
    SingleTime,
    SweepExplorer,
    SyntheticExplorer,
    TrajectoryExplorer,
    TransformerMixer,
    load_images,
)
from difflow.widgets import Panel

WIDTHS = 250, 350, 550, 950, 1600
DIGITS = load_images('mnist5k', split='test', max_images=50, seed=0)
SHAPED = GaussianDenoiser(DIGITS.tensor().mean(0), 0.25)
SMALL = dict(steps=25, sampler='ddim', step_reverse=25, background=False)
QUICK = dict(epochs=2, lrs=(1e-2,), seeds=1, hidden=8, batch_size=25)


class OfClasses(Denoiser):
    "The denoiser of classes that are Gaussian around their grey levels"

    image_shape, num_classes, null_class = (1, 28, 28), 3, True

    def denoise(self, x, sigma, labels):
        mean = 0.0 if labels is None else (labels / 2 - 0.5)[:, None, None, None]
        return mean + 0.2**2 / (0.2**2 + sigma**2) * (x - mean)


class Grey(nn.Module):
    "The classifier that chooses the nearest grey level"

    def forward(self, images):
        return -20 * (images.mean((1, 2, 3))[:, None] - torch.tensor([-0.5, 0.0, 0.5])).abs()


def panels(images, x0):
    "Two panels: what a classifier says of 25 classes, and curves of layers with long names"
    levels = np.linspace(1, 0, len(images)).tolist()
    layers = {f'stages.{k}.residual.last': levels for k in range(7)}
    return [
        Panel('class probability', {str(k): levels for k in range(10)}),
        Panel('cosine to the original, layer by layer', layers, 'lines'),
    ]


def sweeps():
    return SweepExplorer(SHAPED, DIGITS, panels=panels, **SMALL)


def compare():
    names = 'trained on one half', 'trained on the other half of all images'
    return CompareExplorer(dict.fromkeys(names, SHAPED), DIGITS, **SMALL)


def directions():
    strengths = (-12, -9, -6, -3, 0, 3, 6, 9, 12)
    options = dict(directions=3, steps=3, sigma=3.0, strengths=strengths, background=False)
    explorer = DirectionExplorer(SHAPED, **options)
    explorer.direction, explorer.strength = 2, 12.0
    return explorer


def neighbours():
    return NeighbourExplorer(DIGITS.tensor(range(30)), DIGITS, sample=29)


def synthetic():
    images = ImageSet(DIGITS.images, torch.arange(50) % 3, classes=['dark', 'an odd shade of grey', 'light'])
    options = dict(steps=3, steps_offered=(1, 3, 36), label=1, count=8, background=False)
    return SyntheticExplorer(OfClasses(), images, Grey(), **options)


def trajectory():
    times = np.linspace(0, 1, 9).tolist()
    images = ImageSet(DIGITS.images, labels := DIGITS.labels % 2)
    codes = torch.randn(50, 9, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None, None]
    readers = {kind.__name__: kind(**QUICK).fit(codes, labels) for kind in (ConcatMixer, TransformerMixer)}
    single = SingleTime(**QUICK).fit(codes, labels)
    return TrajectoryExplorer(images, codes, times, single, readers, t=1.0, image=49)


EXPLORERS = [sweeps, compare, directions, neighbours, synthetic, trajectory]

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
  for (const tick of all('.df-tick')) {
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
        for width in WIDTHS:
            seen = measured(page, width)
            sizes[width] = check(seen, width, type(explorer))
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


def check(seen, width, kind):
    "Check what was measured at a width, and return the width of the pictures"
    scrolled, client, beyond = seen['across']
    assert scrolled <= client == width and beyond <= 0
    assert seen['overlaps'] == [] and seen['crowded'] == [] and seen['cut'] == []
    row, pictures = first_row(seen['pictures']), seen['pictures']
    titles = 100 if issubclass(kind, SyntheticExplorer) and width >= 550 else 0
    used = sum(picture['width'] for picture in row) / (seen['room'] - titles)
    assert used >= 0.85 or row[0]['width'] >= 0.85 * 512, used
    assert len(row) >= min(3, len(pictures)) or width < 400
    if width >= 350 and seen['readout']:
        tops = [part['top'] for part in seen['readout']]
        assert max(tops) - min(tops) < 1, 'the read-out is not in one line'
    for part, scroller in seen['chosen']:
        assert scroller['left'] - 1 <= part['left'] and part['right'] <= scroller['right'] + 1
    return row[0]['width']
