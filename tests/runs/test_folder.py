"""A folder filled in parts: every order of ranks, every kind of damage, nothing mixed, nothing lost."""

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from difflow.runs import Broken, Item, Output, fill, read_lines
from difflow.runs import folder as runs

ITEMS = [Item(f'item {i}', (f'{i:02d}_a.txt', f'sub/{i:02d}_b.txt')) for i in range(13)]
SETTINGS = {'run': 'toy', 'seed': 0}


def make(batch, wanted):
    "What becomes of an item depends on its batch, so that the wrong company would show"
    company = ' '.join(item.name for item in batch)
    for item in batch:
        for file in item.files:
            yield Output(file, f'{file}: {company}'.encode(), {'name': item.name})


def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}


def stamps(folder):
    return {str(f.relative_to(folder)): f.stat().st_ino for f in Path(folder).rglob('*.txt')}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "The content of a folder filled in one go"
    folder = tmp_path_factory.mktemp('plain')
    report = fill(folder, SETTINGS, ITEMS, make, 3)
    assert (report.made, report.kept, report.complete, report.broken) == (26, 0, True, {})
    return content(folder)


def test_content_is_files_settings_and_sorted_manifest(plain):
    assert len(plain) == 28 and json.loads(plain['run.json']) == SETTINGS
    rows = [json.loads(line) for line in plain['manifest.jsonl'].splitlines()]
    assert [row['file'] for row in rows] == sorted(file for item in ITEMS for file in item.files)
    assert {row['name'] for row in rows} == {item.name for item in ITEMS} and len(
        {row['settings'] for row in rows}
    ) == 1


@pytest.mark.parametrize('world', [1, 2, 3, 7])
def test_any_number_of_ranks_in_any_order(world, plain, tmp_path):
    order = random.Random(world).sample(range(world), world)
    reports = [fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=rank, world=world) for rank in order]
    assert [r.complete for r in reports] == [
        sum(r.made for r in reports[: i + 1]) == 26 for i in range(world)
    ]
    assert reports[-1].complete and sum(r.tells for r in reports) == 1
    again = [fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=rank, world=world) for rank in order]
    assert all(r.complete and not r.made for r in again) and sum(r.tells for r in again) == 1
    assert content(tmp_path) == plain


@pytest.mark.parametrize('last', range(0, 26, 5))
def test_stopped_after_every_file_and_gone_on_with_other_ranks(last, plain, tmp_path):
    "A kill between any two files leaves one of these states; the worlds change at each restart"

    class Stop(BaseException):
        pass

    draw, count = random.Random(last), [0]

    def stopping(batch, wanted):
        for made in make(batch, wanted):
            count[0] += 1
            if count[0] > last:
                raise Stop
            yield made

    world = draw.randint(1, 3)
    for rank in range(world):
        with suppress(Stop):
            fill(tmp_path, SETTINGS, ITEMS, stopping, 3, rank=rank, world=world)
    assert len(stamps(tmp_path)) <= last
    world = draw.randint(1, 4)
    for rank in range(world):
        fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=rank, world=world)
    assert content(tmp_path) == plain


DAMAGE = {
    'cut': lambda file: file.write_bytes(file.read_bytes()[:5]),
    'empty': lambda file: file.write_bytes(b''),
    'longer': lambda file: file.write_bytes(file.read_bytes() + b'\0'),
    'gone': lambda file: file.unlink(),
    'one bit': lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_file_is_made_again_and_nothing_else(damage, plain, tmp_path, tmp_path_factory):
    fill(tmp_path, SETTINGS, ITEMS, make, 3)
    before = stamps(tmp_path)
    os.link(tmp_path / 'sub/04_b.txt', tmp_path_factory.mktemp('kept') / 'b')  # its number is not given again
    DAMAGE[damage](tmp_path / 'sub/04_b.txt')
    report = fill(tmp_path, SETTINGS, ITEMS, make, 3)
    assert (report.made, report.kept) == (1, 25) and content(tmp_path) == plain
    assert {f for f, inode in stamps(tmp_path).items() if inode != before[f]} == {'sub/04_b.txt'}
    assert fill(tmp_path, SETTINGS, ITEMS, make, 3).made == 0 and content(tmp_path) == plain


def test_remains_of_a_kill_are_swept_up(plain, tmp_path):
    fill(tmp_path, SETTINGS, ITEMS[:6], make, 3)
    (tmp_path / '.run').mkdir()
    (tmp_path / '.run/77-1.partial').write_bytes(b'half')
    other = {**read_lines(tmp_path / 'manifest.jsonl')[0], 'file': '07_a.txt'}
    (tmp_path / '.run/.manifest.77-1.partial.jsonl').write_text(
        json.dumps(other) + '\n'
    )  # no list, a write cut short
    row = read_lines(tmp_path / 'manifest.jsonl')[0]
    (tmp_path / '.run/123-0.jsonl').write_text(json.dumps(row) + '\n' + json.dumps(row)[:20])
    assert fill(tmp_path, SETTINGS, ITEMS, make, 3).made == 14 and content(tmp_path) == plain


def test_lists_are_worth_as_much_as_the_manifest(plain, tmp_path):
    "What a rank noted before it was killed is not made again"
    fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=1, world=2)
    assert not (tmp_path / 'manifest.jsonl').exists()
    before = stamps(tmp_path)
    report = fill(tmp_path, SETTINGS, ITEMS, make, 3)
    assert report.kept == len(before) and content(tmp_path) == plain
    assert all(stamps(tmp_path)[file] == inode for file, inode in before.items())


def test_another_rank_may_finish_and_clean_up_at_any_time(plain, tmp_path):
    def interrupted(batch, wanted):
        for made in make(batch, wanted):
            shutil.rmtree(tmp_path / '.run', ignore_errors=True)
            yield made

    assert fill(tmp_path, SETTINGS, ITEMS, interrupted, 3).complete and content(tmp_path) == plain


def test_more_items_come_into_the_same_folder(plain, tmp_path):
    some = [Item(item.name, item.files[:1]) for item in ITEMS]
    assert fill(tmp_path, SETTINGS, some, make, 3).made == 13
    assert fill(tmp_path, SETTINGS, ITEMS, make, 3).made == 13 and content(tmp_path) == plain
    fill(tmp_path, SETTINGS, ITEMS[:1], make, 3)
    assert content(tmp_path) == plain, 'a run of fewer items must not forget the others'


# Refused


def test_other_settings_are_refused_and_named(plain, tmp_path):
    fill(tmp_path, SETTINGS, ITEMS, make, 3)
    for other, words in (
        ({'run': 'toy', 'seed': 1}, 'seed 0 -> 1'),
        ({'run': 'toy'}, 'seed 0 -> None'),
        (SETTINGS | {'steps': [2, 3]}, r'steps None -> \[2, 3\]'),
    ):
        with pytest.raises(ValueError, match=f'is of another run: {words}; give another'):
            fill(tmp_path, other, ITEMS, make, 3)
    assert content(tmp_path) == plain
    (tmp_path / 'run.json').write_text('[1')
    with pytest.raises(ValueError, match='run.json: no settings'):
        fill(tmp_path, SETTINGS, ITEMS, make, 3)


def test_files_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / '03_a.txt').write_text('mine')
    (tmp_path / 'log.txt').write_text('mine, too')
    with pytest.raises(ValueError, match='holds 03_a.txt but no run.json'):
        fill(tmp_path, SETTINGS, ITEMS, make, 3)
    assert content(tmp_path) == {'03_a.txt': b'mine', 'log.txt': b'mine, too'}


def test_items_of_other_content_are_refused_and_repaired_ones_made(plain, tmp_path):
    of = lambda **other: [Item(i.name, i.files, other.get(i.name.replace(' ', '_'), 'same')) for i in ITEMS]
    fill(tmp_path, SETTINGS, of(), broken_at('item 4'), 3)
    with pytest.raises(ValueError, match=r'07_a.txt is of another run: item 7 same -> new; give another'):
        fill(tmp_path, SETTINGS, of(item_7='new'), make, 3)
    report = fill(tmp_path, SETTINGS, of(item_4='repaired'), make, 3)
    assert (report.made, report.kept, report.broken) == (2, 24, {})
    for file in ITEMS[7].files:
        (tmp_path / file).unlink()
    assert fill(tmp_path, SETTINGS, of(item_4='repaired', item_7='new'), make, 3).made == 2
    assert (tmp_path / '04_a.txt').read_bytes() == plain['04_a.txt']
    rows = {row['file']: row['content'] for row in read_lines(tmp_path / 'manifest.jsonl')}
    assert rows['07_a.txt'] == 'new' and rows['04_a.txt'] == 'repaired' and rows['00_a.txt'] == 'same'


def test_what_was_removed_under_a_run_is_no_success(tmp_path):
    def undermined(batch, wanted):
        yield from make(batch, wanted)
        if batch[0].name == 'item 6':
            (tmp_path / '00_a.txt').unlink()

    with pytest.raises(OSError, match=r'1 files were removed while the run went on, 00_a.txt'):
        fill(tmp_path, SETTINGS, ITEMS, undermined, 3)
    assert fill(tmp_path, SETTINGS, ITEMS, make, 3).made == 1


def test_restart_removes_what_a_run_has_written_and_nothing_else(plain, tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'mine.txt').write_text('mine')
    fill(tmp_path, SETTINGS, ITEMS, make, 3)
    fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=0, world=2)
    report = fill(tmp_path, SETTINGS | {'seed': 1}, ITEMS[:2], make, 3, restart=True)
    assert (report.made, report.kept, report.others) == (4, 0, 0)
    assert sorted(stamps(tmp_path)) == sorted(['sub/mine.txt', *(f for i in ITEMS[:2] for f in i.files)])
    with pytest.raises(ValueError, match='restart is for one process, this is one of 2'):
        fill(tmp_path, SETTINGS, ITEMS, make, 3, restart=True, rank=1, world=2)


# What goes wrong


def broken_at(*names):
    def broken(batch, wanted):
        for item in batch:
            if item.name in names:
                yield Broken(item.name, f'{item.name} is cut short')
        yield from make([item for item in batch if item.name not in names], wanted)

    return broken


def test_broken_items_are_named_and_tried_again(tmp_path):
    for world in (1, 3):
        folder = tmp_path / str(world)
        reports = [
            fill(folder, SETTINGS, ITEMS, broken_at('item 4', 'item 11'), 3, rank=r, world=world)
            for r in range(world)
        ]
        assert reports[-1].complete and reports[-1].broken == {
            f'item {i}': f'item {i} is cut short' for i in (4, 11)
        }
        assert [row['broken'] for row in read_lines(folder / 'broken.jsonl')] == ['item 11', 'item 4']
        assert len(stamps(folder)) == 22
    assert content(tmp_path / '1') == content(tmp_path / '3')
    report = fill(tmp_path / '1', SETTINGS, ITEMS, broken_at('item 11'), 3)
    assert report.made == 2 and list(report.broken) == ['item 11']
    assert (
        fill(tmp_path / '1', SETTINGS, ITEMS, make, 3).broken == {}
        and not (tmp_path / '1/broken.jsonl').exists()
    )


def test_strict_stops_and_keeps_what_was_made(tmp_path):
    with pytest.raises(ValueError, match='item 4: item 4 is cut short'):
        fill(tmp_path, SETTINGS, ITEMS, broken_at('item 4'), 3, strict=True)
    assert len(stamps(tmp_path)) == 6 and not (tmp_path / 'manifest.jsonl').exists()
    assert fill(tmp_path, SETTINGS, ITEMS, make, 3).kept == 6


def test_a_full_disk_is_an_error_and_can_be_gone_on_from(plain, tmp_path, monkeypatch):
    write, room = runs._RunFolder.write, [9]

    def full(self, name, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, 'No space left on device')
        write(self, name, data)

    monkeypatch.setattr(runs._RunFolder, 'write', full)
    with pytest.raises(OSError, match='No space'):
        fill(tmp_path, SETTINGS, ITEMS, make, 3)
    monkeypatch.undo()
    fill(tmp_path, SETTINGS, ITEMS, make, 3)
    assert content(tmp_path) == plain


def test_bar_counts_all_ranks(tmp_path, capsys):
    fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=2, world=3)

    def while_another_works(batch, wanted):
        if batch[0].name == 'item 0':
            fill(tmp_path, SETTINGS, ITEMS, make, 3, rank=1, world=3)
        return make(batch, wanted)

    capsys.readouterr()
    fill(tmp_path, SETTINGS, ITEMS, while_another_works, 3, progress=True, unit='image', rank=0, world=3)
    error = capsys.readouterr().err
    assert '6/26' in error.split('\r')[1] and '26/26' in error.split('\r')[-1] and 'image/s' in error
    fill(tmp_path, SETTINGS, ITEMS, make, 3, progress=True, rank=1, world=3)
    assert capsys.readouterr().err == ''
