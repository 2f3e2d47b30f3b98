"""The figure of a comparison: which midpoints are printed, for which files, and what is refused."""

import re

import numpy as np
import pytest
from option_changes import call, files_of

from difflow.sweeps import LayerChange

LEVELS = np.array([5, 10, 15, 20, 25, 30])


def write(file, midpoints, levels=LEVELS, n=300, **more):
    "Write a comparison whose heads lose their class at these levels, within about two"
    rng = np.random.default_rng(1)
    start, back = {}, {}
    for head, middle in midpoints.items():
        label = rng.integers(4, size=n)
        lost = rng.random((len(levels), n)) > 1 / (1 + np.exp((levels - middle) / 2))[:, None]
        found = np.where(lost, rng.integers(4, size=lost.shape), label)
        start[head], back[head] = np.eye(4, dtype=np.float32)[label], np.eye(4, dtype=np.float32)[found]
    measures = np.broadcast_to(1 - levels[:, None, None] / 60, (len(levels), 2, n)).astype(np.float32)
    change = LayerChange(
        ['early', 'late'],
        levels.tolist(),
        [f'{i}' for i in range(n)],
        *[measures] * 4,
        np.roll(np.arange(n), 1),
        start,
        back,
        **more,
    )
    change.save(file)


def midpoints(printed):
    "Return {head: (midpoint, low, high)} of what was printed"
    found = re.findall(r'^(\w+): midpoint ([\d.]+) \(([\d.]+)\.\.([\d.]+)\)', printed, re.M)
    return {head: tuple(map(float, numbers)) for head, *numbers in found}


@pytest.mark.parametrize(
    'steps, options, scale', [(40, '', 40), (None, '', 1), (40, '--timestep_respacing 50', 50)]
)
def test_every_head_has_its_midpoint_in_units_of_the_walk(steps, options, scale, tmp_path):
    write(tmp_path / 'change.npz', {'digit': 12, 'colour': 22}, steps=steps)
    code, printed = call(f'transition change.npz --out figure.svg {options}', tmp_path)
    assert code == 0 and '2 of 2 fitted' in printed, printed
    found = midpoints(printed)
    for head, middle in (('digit', 12), ('colour', 22)):
        _, low, high = found[head]
        assert low < middle / scale < high and high - low < 3 / scale
    assert (tmp_path / 'figure.svg').read_text().startswith('<?xml')


def test_a_head_that_loses_nothing_has_none(tmp_path):
    write(tmp_path / 'change.npz', {'lost': 15, 'kept': 1000}, steps=40)
    code, printed = call('transition change.npz', tmp_path)
    assert code == 0 and list(midpoints(printed)) == ['lost'] and '1 of 2 fitted' in printed
    assert re.search(r'^kept: more than [\d.]+ is kept at every level: no fall up to 0.75', printed, re.M)
    assert (tmp_path / 'change.png').read_bytes().startswith(b'\x89PNG')


def test_what_has_no_curve_is_refused(tmp_path):
    write(tmp_path / 'two.npz', {'class': 7}, LEVELS[:2])
    write(tmp_path / 'one.npz', {'class': 7}, n=1)
    write(tmp_path / 'good.npz', {'class': 15}, steps=40)
    np.savez(tmp_path / 'other.npz', a=1)
    before = files_of(tmp_path)
    for words, message in (
        ('two.npz', 'two.npz: a fit needs 3 levels and 2 images, it has 2 and 300'),
        ('one.npz', 'it has 6 and 1'),
        ('good.npz --out figure.bmp', 'figure.bmp: the name must end in .png, .pdf or .svg'),
        ('good.npz --timestep_respacing 20', '--timestep-respacing 20: good.npz has step_reverse 30'),
        ('other.npz', "other.npz has no 'layers'"),
    ):
        code, printed = call(f'transition {words}', tmp_path)
        assert code == 2 and message in printed and files_of(tmp_path) == before, printed
