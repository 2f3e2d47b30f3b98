"""The neighbour explorer: brute force for every N, what is refused, and its script in a browser."""

from functools import cache

import numpy as np
import pytest
import torch
from counting import pixels
from traitlets import TraitError

from difflow import NeighbourExplorer, load_images, sscd_features
from difflow.data import to_uint8
from difflow.features import load_descriptor
from difflow.widgets.neighbours import _entrants, _set_sizes

TRAIN = load_images('mnist5k', split='train', max_images=60, seed=0)
SAMPLES = torch.cat(
    [TRAIN.tensor([7, 40]), load_images('mnist5k', split='test', max_images=3, seed=1).tensor()]
)
DESCRIPTOR = load_descriptor('mnist5k')


def explore(samples=SAMPLES, train=TRAIN, **options):
    return NeighbourExplorer(samples, train, DESCRIPTOR, **dict(k=4) | options)


@cache
def features():
    return sscd_features(SAMPLES, DESCRIPTOR), sscd_features(TRAIN, DESCRIPTOR)


def brute(sample, n, k=4):
    "Nearest training images by a direct search"
    samples, train = features()
    return (samples[sample] @ train[:n].T).topk(min(k, n))


def test_neighbours_are_those_of_a_direct_search():
    explorer = explore()
    for sample in range(5):
        for n in (1, 2, 4, 5, 8, 41, 60):
            explorer.sample, explorer.n = sample, n
            found = brute(sample, n)
            assert explorer.neighbours.tolist() == found.indices.tolist()
            torch.testing.assert_close(explorer.similarity, found.values, atol=1e-5, rtol=0)


def test_a_training_image_is_a_copy_once_n_passes_it():
    explorer = explore(sample=1)
    for n, copy in ((40, False), (41, True)):
        explorer.n = n
        assert (explorer.similarity[0].item() > explorer.threshold) == copy
        assert (40 in explorer.neighbours) == copy
    explorer.n = 60
    assert explorer.similarity[0] > 0.9999 and explorer.m_score >= 0.4
    assert explore(threshold=-1.0).m_score == 1 and explore(threshold=1.0).m_score == 0


def test_any_function_describes_colour_as_well():
    train = load_images('emoji', split='train')[:40]
    x = train.tensor()
    explorer = NeighbourExplorer(x[[5, 30]], train, lambda images: images.flatten(1) + 2, k=3, threshold=0.9)
    rows = torch.nn.functional.normalize(x.flatten(1) + 2)
    for sample, own in enumerate((5, 30)):
        explorer.sample, explorer.n = sample, 40
        expected = (rows[own] @ rows.T).topk(3)
        assert explorer.neighbours.tolist() == expected.indices.tolist() and explorer.neighbours[0] == own
        torch.testing.assert_close(explorer.similarity, expected.values, atol=1e-5, rtol=0)
    for wrong, message in (
        (dict(threshold=None), 'threshold must be in -1..1, got None'),
        (dict(descriptor=lambda images: images), r'descriptors must be floats \(N, dims\)'),
        (dict(descriptor=lambda images: images.flatten(1) * torch.nan), 'hold NaN'),
    ):
        options = dict(descriptor=lambda images: images.flatten(1), threshold=0.5) | wrong
        with pytest.raises(ValueError, match=message):
            NeighbourExplorer(x[:2], train, **options)


@pytest.mark.parametrize('k', [1, 3, 10])
def test_entrants_hold_the_answer_for_every_n(k):
    s = torch.randint(0, 20, (3, 60), generator=torch.Generator().manual_seed(k)).float()  # with ties
    for row, kept in zip(s, _entrants(s, k)):
        assert kept == sorted(kept) and kept[:k] == list(range(k))
        for n in range(1, 61):
            wanted = sorted(range(n), key=lambda i: (-row[i], i))[:k]
            assert sorted((i for i in kept if i < n), key=lambda i: (-row[i], i))[:k] == wanted


@pytest.mark.parametrize('count', [1, 2, 60, 4000])
def test_sizes_of_the_slider(count):
    sizes = _set_sizes(count)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == count and len(sizes) <= 120


def test_the_browser_gets_each_picture_once():
    explorer = explore()
    pictures = pixels(explorer._pictures)[..., 0]
    seen = {}
    for kept, rows in zip(explorer._entrants, explorer._table):
        assert [row[0] for row in rows] == kept
        for index, similarity, picture in rows:
            assert (pictures[picture] == TRAIN.images[index, 0].numpy()).all() and abs(similarity) <= 1
            assert seen.setdefault(index, picture) == picture
    assert len(pictures) == len(seen)
    assert (pixels(explorer._samples)[..., 0] == to_uint8(SAMPLES)[:, 0].numpy()).all()
    assert '_esm' in type(explorer).__dict__


def test_static_picture():
    explorer, scale = explore(sample=1), 3
    wide = np.asarray(explorer.static([60], scale=scale))
    first = wide[2 : 2 + 28 * scale : scale]
    tile = to_uint8(SAMPLES[1, 0]).numpy()
    columns = [
        i for i in range(wide.shape[1] - 28 * scale) if (first[:, i : i + 28 * scale : scale] == tile).all()
    ]
    assert len(columns) >= 2  # the sample, and the training image that it is
    assert explorer.static([2, 60], scale=2).height > explorer.static([60], scale=2).height


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(n=0), 'n must be an int in 1..60, got 0'),
        (dict(n=61), 'n must be an int in 1..60'),
        (dict(n=2.5), 'n must be an int'),
        (dict(sample=5), 'sample must be an int in 0..4'),
        (dict(k=17), 'k must be an int in 1..16'),
        (dict(threshold=1.5), 'threshold must be in -1..1'),
        (dict(samples=SAMPLES[:0]), 'at least one image'),
        (dict(samples=SAMPLES.expand(-1, 2, -1, -1)), 'must have one shape'),
        (dict(samples=SAMPLES[..., :14], train=TRAIN.tensor()[..., :14]), 'sides of 28..32'),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        explore(**options)
    with pytest.raises(ValueError, match='k must be >= 1'):
        _entrants(torch.zeros(1, 2), 0)


def test_refused_assignments_leave_everything():
    explorer = explore(sample=2, n=30)
    for name, value in (('sample', 5), ('n', 0), ('n', 61)):
        with pytest.raises((ValueError, TraitError)):
            setattr(explorer, name, value)
    assert (explorer.sample, explorer.n) == (2, 30)
    explorer.set_state({'n': 0})
    assert 'n must be an int in 1..60, got 0' in explorer.error and explorer.n == 30
    explorer.set_state({'n': 20})
    assert explorer.error == '' and explorer.n == 20


def drag(page, slider, places):
    "Press the mouse on the handle of a slider at its right end, move it over `places` in 0..1 and let it go."
    box = slider.bounding_box()
    move = lambda place: page.mouse.move(box['x'] + box['width'] * place, box['y'] + box['height'] / 2)
    move(0.97)
    page.mouse.down()
    before = page.evaluate('state.n')
    for place in places:
        move(place)
        assert page.evaluate('state.n') < before  # it follows while the button is held
        before = page.evaluate('state.n')
    page.mouse.up()


def test_the_browser_finds_the_neighbours_of_every_n_by_itself(on_a_page, pixels_of):
    "On a page of its own samples are chosen by click and key, N by dragging and typing; the pixels are right"
    explorer = explore(n=60)

    def check(page, sample, n):
        assert page.evaluate('[state.sample, state.n]') == [sample, n]
        for i, index in enumerate(brute(sample, n).indices.tolist()):
            shown = pixels_of(page.locator(f'[data-panel="neighbour {i}"]'))
            assert (shown[..., 0] == TRAIN.images[index, 0].numpy()).all()
        assert page.locator('figure:visible').count() == 1 + min(4, n)

    with on_a_page(explorer) as page:
        check(page, 0, 60)
        page.locator('[role=radio]').nth(1).click()
        check(page, 1, 60)
        assert page.locator('[role=radio].df-copy').count() >= 2
        page.locator('[role=radio]').nth(1).press('ArrowRight')
        check(page, 2, 60)
        slider = page.locator('input[type=range]')
        slider.press('ArrowLeft')
        check(page, 2, _set_sizes(60)[-2])
        drag(page, slider, [0.8, 0.5, 0.3])
        dragged = page.evaluate('state.n')
        assert 1 < dragged < 30 and dragged in _set_sizes(60)
        check(page, 2, dragged)
        slider.press('Home')
        check(page, 2, 1)
        page.locator('input[type=number]').fill('41')
        page.locator('input[type=number]').press('Enter')
        check(page, 2, 41)
