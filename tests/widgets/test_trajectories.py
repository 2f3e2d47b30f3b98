"""The trajectory explorer without a browser: what it holds, what is refused, and its script."""

import numpy as np
import pytest
import torch
from counting import pixels
from traitlets import TraitError

from difflow import ConcatMixer, ImageSet, SingleTime, TrajectoryExplorer, TransformerMixer
from difflow.data import to_uint8
from difflow.representations import sigma_of
from difflow.widgets.trajectories import _noised

TIMES = [0.0, 0.5, 1.0]
QUICK = dict(epochs=3, lrs=(1e-2,), seeds=2, hidden=8, batch_size=20)


@pytest.fixture(scope='module')
def parts():
    "Images of two factors, codes that show them at times 0 and 2, and fitted read-outs"
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 3, 60), rng.integers(0, 2, 60)], 1)
    codes = rng.normal(0, 0.2, (60, 3, 4)).astype(np.float32)
    codes[np.arange(60), 0, labels[:, 0]] += 2
    codes[np.arange(60), 2, labels[:, 1]] += 2
    images = ImageSet(torch.randint(0, 256, (60, 3, 4, 4), dtype=torch.uint8), labels)
    codes = torch.from_numpy(codes)
    readers = {
        'concat': ConcatMixer(**QUICK).fit(codes, labels),
        'transformer': TransformerMixer(**QUICK).fit(codes, labels),
    }
    return images, codes, TIMES, SingleTime(**QUICK | dict(epochs=15)).fit(codes, labels), readers


@pytest.fixture
def explorer(parts):
    return TrajectoryExplorer(*parts, factors=('letter', 'side'), classes=('abc', ('left', 'right')))


def test_the_browser_gets_images_and_answers(explorer, parts):
    images, codes, _, single, readers = parts
    explorer.image, explorer.factor = 7, 0
    x = _noised(images.tensor([7]), TIMES, 7)
    assert pixels(explorer._noised).flatten().tolist() == to_uint8(x).movedim(1, -1).flatten().tolist()
    assert pixels(explorer._clean).flatten().tolist() == images.images[7].movedim(0, -1).flatten().tolist()
    first = images.images[:40].movedim(1, -1)
    assert (pixels(explorer._thumbnails) == first.numpy()).all() and explorer._shelf['count'] == 60
    assert explorer._levels['sigma'] == pytest.approx(sigma_of(torch.tensor(TIMES)).tolist())
    by_time = single.probabilities_by_time(codes)[0, :, 7]
    assert [row[0] for row in explorer._single] == ['abc'[i] for i in by_time.argmax(-1).tolist()]
    assert dict(explorer._answers)['concat'].startswith('abc'[readers['concat'].predict(codes)[7, 0]])
    profile = readers['transformer'].attention(codes)[0, 7, :-1]
    assert explorer._panels[1]['values'][0] == pytest.approx((profile / profile.max()).tolist())
    assert np.array(explorer._panels[0]['values']).sum(0) == pytest.approx(np.ones(3), abs=1e-5)
    assert explorer._truth == f'letter: {"abc"[images.labels[7, 0]]}'


def test_starts_at_the_best_single_time(parts):
    assert TrajectoryExplorer(*parts).t == 0.0 and TrajectoryExplorer(*parts, factor=1).t == 1.0


def test_python_and_browser_share_the_state(explorer):
    before = explorer._panels
    explorer.set_state({'factor': 1, 'image': 3, 't': 0.5})
    assert (explorer.factor, explorer.image, explorer.t) == (1, 3, 0.5) and explorer._panels != before
    assert explorer._panels[0]['names'] == ['left', 'right'] and list(explorer.answers)[0] == 'time 0.5 alone'
    assert (
        explorer.static().mode == 'RGB' and repr(explorer) == 'TrajectoryExplorer(image=3, factor=1, t=0.5)'
    )
    assert 'image/png' in explorer._repr_mimebundle_()[0]


def test_noise_grows_with_the_time():
    x = torch.zeros(1, 1, 16, 16)
    frames = _noised(x, TIMES)
    assert frames[0].std() == pytest.approx(0.01, rel=0.2) and (frames[2] == frames[2].clamp(-1, 1)).all()
    assert torch.equal(frames, _noised(x, TIMES)) and not torch.equal(frames, _noised(x, TIMES, image=1))
    sigma, inside = 0.5**0.5, frames[1].abs() < 1  # the same noise, grown
    assert torch.allclose(
        frames[0][inside] / 0.01, frames[1][inside] * (1 + sigma**2) ** 0.5 / sigma, atol=1e-2
    )


def test_refused_choices_leave_everything(explorer):
    for name, value in (('t', 0.3), ('image', 60), ('image', -1), ('factor', 2), ('factor', 'side')):
        before = getattr(explorer, name)
        with pytest.raises((ValueError, TraitError)):
            setattr(explorer, name, value)
        assert getattr(explorer, name) == before
    explorer.set_state({'t': 0.3})
    assert 't must be one of [0.0, 0.5, 1.0], got 0.3' in explorer.error


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(codes=torch.zeros(59, 3, 4)), r'codes must be \(60, 3, D\)'),
        (dict(times=[0.0, 1.0]), r'codes must be \(60, 2, D\)'),
        (dict(times=[0.0, 1.0, 0.5]), 'times must ascend'),
        (dict(codes=torch.full((60, 3, 4), torch.nan)), 'must be finite'),
        (dict(codes=torch.zeros(60, 3, 5)), r'codes must be \(N, 3, 4\)'),
        (dict(factors=['letter']), 'named are 1'),
        (dict(classes=['ab', 'cd']), r'of \[2, 2\]'),
        (dict(single=SingleTime()), 'not fitted'),
        (dict(image=60), 'image must be'),
        (dict(t=0.1), 't must be one of'),
        (dict(factor=5), 'factor must be an int in 0..1'),
    ],
)
def test_bad_input_is_refused(change, message, parts):
    names = dict(zip(('images', 'codes', 'times', 'single', 'mixers'), parts))
    with pytest.raises(ValueError, match=message):
        TrajectoryExplorer(**names | change)


def test_a_reader_of_other_factors_is_refused(parts):
    images, codes, times, single, _ = parts
    one = ConcatMixer(**QUICK).fit(codes, images.labels[:, 0])
    with pytest.raises(ValueError, match='concat reads 1 factors, not 2'):
        TrajectoryExplorer(images, codes, times, single, {'concat': one})


def test_time_is_dragged_in_a_browser(explorer, on_a_page, pixels_of):
    "On a page of its own arrow keys and clicks move t, and the canvas and the answers follow"
    with on_a_page(explorer) as page:
        page.locator('.df-film input[type=range]').press('ArrowRight')
        assert page.evaluate('state.t') == 0.5
        page.locator('.df-film input[type=range]').press('End')
        assert page.evaluate('state.t') == 1
        shown = pixels_of(page.locator('[data-panel=noised]'))
        texts = page.locator('.df-readout').inner_text()
        page.locator('select').select_option('1')
        assert page.evaluate('state.factor') == 1
        page.locator('.df-thumbnails button').nth(4).click()
        assert page.evaluate('state.image') == 4
    expected = pixels(explorer._noised)[2]
    assert (shown == expected).all()
    assert explorer._single[2] in texts and all(text in texts for _, text in explorer._answers)
