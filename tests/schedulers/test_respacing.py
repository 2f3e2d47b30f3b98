"""Respacing to the index, against the rule written once more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflow.schedulers import space_timesteps


def kept_by_rule(total, sections):
    "Write the respacing rule once more, from its description: float position, added stride, half to even."
    base, extra, first, kept = *divmod(total, len(sections)), 0, set()
    for number, count in enumerate(sections):
        length = base + 1 if number < extra else base
        position, stride = 0.0, 1.0 if count <= 1 else (length - 1) / (count - 1)
        while count:
            whole, rest = int(position), position - int(position)
            kept.add(first + whole + (rest > 0.5 or (rest == 0.5 and whole % 2 == 1)))
            position, count = position + stride, count - 1
        first += length
    return sorted(kept)


def test_every_count_of_a_thousand():
    for count in range(1, 1001):
        kept = space_timesteps(1000, str(count))
        assert kept == kept_by_rule(1000, [count]) == space_timesteps(1000, count) and len(kept) == count


def test_every_stride_of_a_thousand():
    strides = {len(range(0, 1000, k)): k for k in range(999, 0, -1)}  # smallest k wins
    for count in range(1, 1001):
        if count in strides:
            assert space_timesteps(1000, f'ddim{count}') == list(range(0, 1000, strides[count]))
        else:
            with pytest.raises(ValueError, match=f"ddim{count}'"):
                space_timesteps(1000, f'ddim{count}')


@pytest.mark.parametrize(
    'total, spec, some',
    [
        (1000, '250', {0: 0, 1: 4, 5: 20, 125: 502, 247: 991, 248: 995, 249: 999}),
        (1000, 'ddim50', {0: 0, 1: 20, 49: 980}),
        (1000, '1', {0: 0}),
        (1000, '', {0: 0, 999: 999}),
        (300, '10,15,20', {0: 0, 1: 11, 2: 22, 9: 99, 10: 100, 11: 107, 24: 199, 25: 200, 26: 205, 44: 299}),
    ],
)
def test_published_respacings(total, spec, some):
    kept = space_timesteps(total, spec)
    assert {i: kept[i] for i in some} == some and len(kept) == max(some) + 1


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_sections(data):
    total = data.draw(st.integers(1, 400))
    parts = data.draw(st.integers(1, min(total, 6)))
    counts = [data.draw(st.integers(1, total // parts + (i < total % parts))) for i in range(parts)]
    kept = space_timesteps(total, counts)
    assert kept == kept_by_rule(total, counts) == space_timesteps(total, ','.join(map(str, counts)))
    assert len(kept) == sum(counts) and kept == sorted(set(kept)) and 0 <= kept[0] <= kept[-1] < total


@pytest.mark.parametrize(
    'bad',
    [
        '1001',
        '0',
        '-1',
        '501,500',
        'ddim',
        'ddim0',
        'ddim51',
        'ddim-5',
        'ddim1001',
        'ddim1',
        'x',
        '1.5',
        ',',
        '5,,5',
        0,
        -3,
        1001,
        2.5,
        [2.5],
        [],
        [5, 0],
    ],
)
def test_bad_respacing(bad):
    with pytest.raises(ValueError) as error:
        space_timesteps(1000, bad)
    assert repr(bad) in str(error.value)


def test_more_sections_than_levels():
    with pytest.raises(ValueError, match='0 levels'):
        space_timesteps(2, '1,1,1')
