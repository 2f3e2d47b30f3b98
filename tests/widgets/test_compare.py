"""Several denoisers side by side: what they share, the distances and the verdicts under their pictures."""

import numpy as np
import pytest
import torch
from counting import DIGITS, X0, Counting, expected, pixels

from difflow import CompareExplorer, GaussianDenoiser, OptimalDenoiser, SweepExplorer, sscd_features
from difflow.features import load_descriptor
from difflow.widgets import verdicts

QUICK = dict(steps=4, levels=2)


def test_compare_shares_image_noise_and_levels():
    grey = Counting()
    rows = {'a': grey, 'b': grey, 'gauss': GaussianDenoiser(X0.mean(0), 0.3)}
    explorer = CompareExplorer(rows, DIGITS, steps=8, levels=4)
    images = explorer.images
    assert list(images) == list(explorer.sweeps) == ['a', 'b', 'gauss']
    assert torch.equal(images['a'], images['b']) and not torch.equal(images['a'], images['gauss'])
    frames = pixels(explorer._frames).reshape(3, 5, 28, 28, 1)
    for row, name in zip(frames, images):
        assert (row == expected(images[name])).all()
    noised = [sweep.noised for sweep in explorer.sweeps.values()]
    assert torch.equal(noised[0], noised[2])
    distances = np.array(explorer._distances)  # rows, levels, (to the first, to the original)
    assert distances.shape == (3, 5, 2)
    np.testing.assert_allclose(distances[:2, :, 0], 0)
    np.testing.assert_allclose(distances[:, 0], 0)
    rms = (images['gauss'][-1] - X0[0]).square().mean().sqrt()
    np.testing.assert_allclose(distances[2, -1, 1], rms, rtol=1e-5)


def test_compare_asks_only_models_with_classes_for_a_class():
    plain, classy = Counting(), Counting(10)
    CompareExplorer({'plain': plain, 'classy': classy}, DIGITS, **QUICK)
    assert plain.labels is None and classy.labels.unique().tolist() == [int(DIGITS.labels[0])]


def last_lines(explorer):
    return [[note.splitlines()[-1] for note in row] for row in explorer.wait()._notes]


def test_verdicts_of_exact_denoisers():
    "An optimal denoiser returns training images; two of different images agree where nothing was noised"
    rows = {'three': OptimalDenoiser(X0[:3]), 'others': OptimalDenoiser(X0[3:])}
    notes = verdicts('mnist5k', DIGITS[:3])
    explorer = CompareExplorer(rows, DIGITS, steps=12, levels=4, sampler='heun', notes=notes)
    first, second = last_lines(explorer)
    assert all(note.endswith('memorised') for note in first)
    assert (
        first[0] == second[0] == 'reproduced, memorised' and second[-1] == 'new' and first[-1] == 'memorised'
    )
    descriptor = load_descriptor('mnist5k')
    z, train = (
        {name: sscd_features(x, descriptor) for name, x in explorer.images.items()},
        sscd_features(DIGITS[:3], descriptor),
    )
    for i in range(5):
        other, near = z['three'][i] @ z['others'][i], (z['others'][i] @ train.T).max()
        assert explorer._notes[1][i].splitlines()[:2] == [
            f'similarity {other:.2f} to three',
            f'similarity {near:.2f} to train',
        ]


def test_one_model_beside_itself_is_reproduced():
    explorer = CompareExplorer(
        {'a': Counting(), 'b': Counting(), 'c': Counting()},
        DIGITS,
        notes=verdicts('mnist5k'),
        **QUICK,
    )
    assert {note for row in last_lines(explorer) for note in row} == {'reproduced'}
    assert (
        explorer._notes[0][0] == 'similarity 1.00 to the others\nreproduced'
        and 'to a' in explorer._notes[2][0]
    )
    alone = SweepExplorer(Counting(), DIGITS, notes=verdicts('mnist5k', DIGITS[1:]), **QUICK)
    assert (
        alone.wait()._notes[0][0].endswith('new') and 'to train' in alone._notes[0][0]
    )  # DIGITS[0] was left out


def with_verdicts():
    "Two optimal denoisers of three digits each, one set of which is the training set"
    rows = {'three': OptimalDenoiser(X0[:3]), 'others': OptimalDenoiser(X0[3:])}
    return CompareExplorer(
        rows, DIGITS, steps=12, levels=4, sampler='heun', notes=verdicts('mnist5k', DIGITS[:3])
    ).wait()


def test_the_static_picture_has_the_notes_under_its_frames():
    explorer = with_verdicts()
    written, shown = explorer._notes, np.asarray(explorer.static())
    explorer._notes = []
    plain = np.asarray(explorer.static())
    lines = [max(len(note.splitlines()) for note in row) for row in written]
    # at least a line for both similarities and the verdict, in two rows
    assert len(shown) - len(plain) >= 11 * sum(lines)
    tall, places = (len(plain) - 18) // 3, []  # of a row without notes: noised, three, others
    for k in range(2):
        explorer._notes = [
            [note.replace('m', 'n') if row == k else note for note in notes]
            for row, notes in enumerate(written)
        ]
        changed = (np.asarray(explorer.static()) != shown).any(axis=(1, 2)).nonzero()[0]
        places.append((changed.min(), changed.max()))
    (first, last), (again, end) = places  # the notes of a row are below its frames and above the next
    assert 18 + 2 * tall - 4 <= first < last < again - tall + 6 and end < len(shown)


def test_the_browser_writes_the_notes_under_each_picture(on_a_page):
    explorer = with_verdicts()
    with on_a_page(explorer) as page:

        def note(name):
            figure = page.locator('figure', has=page.locator(f'[data-panel="{name}"]'))
            return figure.locator('small').text_content()

        slider = page.locator('input[type=range]').first
        for key in ('Home', 'ArrowRight', 'End'):
            slider.press(key)
            i = int(slider.input_value())
            for k, name in enumerate(('three', 'others')):
                assert note(name).endswith('\n' + explorer._notes[k][i])
        assert note('noised') == '' and explorer._notes[0][0] != explorer._notes[0][-1]
        assert note('three').splitlines()[-1] == 'memorised' and note('others').splitlines()[-1] == 'new'


def test_bad_denoisers():
    with pytest.raises(ValueError, match='at least 1 denoiser'):
        CompareExplorer({}, DIGITS)
    with pytest.raises(ValueError, match=r'number of classes, got \[4, 10\]'):
        CompareExplorer({'a': Counting(4), 'b': Counting(10)}, DIGITS)
