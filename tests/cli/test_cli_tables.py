"""The table of every command: JSON and CSV that agree with each other and with what is printed; `--quiet`."""

import csv
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from option_changes import all_commands, call, files_of
from published_runs import Run, changed_words
from test_cli_transition import write
from test_published_lines import LINES, RUNS

from difflow.cli import root

LINE = {line.name: line for line in LINES}
NOTHING = Run()


class Case(NamedTuple):
    "A line of a command, or the name of a published one; of a row, the words that are printed"

    line: str
    printed: Callable[[dict], str] | None  # None: its files are the result, the last line says how many
    prepare: Callable[[Path], None] = NOTHING.prepare


def lay(*lines):
    "Return what runs lines in a folder first"

    def prepare(folder):
        for line in lines:
            assert call(line, folder)[0] == 0

    return prepare


def lay_change(folder):
    write(folder / 'change.npz', {'lost': 15, 'kept': 1000}, steps=40)


def lay_synthetic(folder):
    "Write an npz of the embedded digits as labelled samples"
    from difflow import load_images

    images = load_images('digits', max_images=40)
    pixels = ((images.tensor() + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(folder / 'made.npz', arr_0=pixels, arr_1=images.labels.numpy())


def score(row):
    interval = f'95 %: {row["low"]:.4f}..{row["high"]:.4f}; {row["samples"]} samples'
    return f'{row["score"]} = {row["value"]:.4f} ({interval})'


def transition(row):
    if row['reason']:
        return f'{row["head"]}: {row["reason"]}'
    middle = f'midpoint {row["midpoint"]:.4g} ({row["midpoint_low"]:.4g}..{row["midpoint_high"]:.4g})'
    return f'{row["head"]}: {middle}, step_reverse {row["midpoint"] * row["steps"]:.1f} of {row["steps"]}'


def cas(row):
    "Return the words of a line of the table that `cas` prints"
    of = f'{row["arm"]:20} {row["images"]:7,}  {row["protocol"]:8} {row["steps"]:6,}  '
    words = f'{100 * row["score"]:5.1f} ({100 * row["low"]:5.1f}..{100 * row["high"]:5.1f})'
    less = [row[name] for name in ('difference', 'difference_low', 'difference_high')]
    return of + words + (' {:+6.1f} ({:+.1f}..{:+.1f})'.format(*(100 * v for v in less)) if less[0] else '')


FEATURES = 'sscd feature --images mnist5k --model mnist5k --features'
LOSSES = 'lr data mode width training_loss eval_loss'.split()
SMALL = (
    '--data digits --steps 2 --batch-size 16 --model-channels 32 --channel-mult 1 --num-res-blocks 1 '
    '--attention-resolutions 4 --warmup 1'
)
CASES = {  # each command, and each way in which it prints numbers
    'info': Case('info digits', lambda row: f'{row["value"]}'),
    'sweep': Case('sweep --model digits --data digits --steps 4 --levels 3', None),
    'sample': Case('sample --model digits --n 3 --steps 2', None),
    'sample one picture': Case('sample --model digits --n 3 --steps 2 --out a.png', None),
    'train': Case(f'train {SMALL}', None),
    'train dry run': Case(f'train {SMALL} --dry-run', lambda row: f'{row["count"]} steps, into '),
    'forward-backward': Case(
        'forward-backward --model digits --data-dir digits --num-per-class 1 --num-classes 2 '
        '--timestep-respacing 4 --step-reverse 2',
        None,
    ),
    'classifier-statistics': Case(
        'classifier-statistics --classifier-name mnist5k --data-dir mnist5k --num-samples 50 --output s.npz',
        lambda row: (
            f'{row["layers"]} layers over {row["images"]} images, accuracy {row["accuracy"]:.4f}, '
            f'top-5 {row["accuracy_top5"]:.4f}'
        ),
    ),
    'evaluate-classifier': Case(
        'evaluate-classifier --classifier-name mnist5k --starting-data-dir sent --data-dir back '
        '--statistics s.npz --output change.npz',
        lambda row: f'{row["step_reverse"]}: {row["same_class"]:.2f}',
        lay(
            'sample --model mnist --n 6 --steps 2 --out sent',
            'forward-backward --model mnist --data-dir sent --timestep-respacing 4 --step-reverse 1 3 '
            '--out back',
            'classifier-statistics --classifier-name mnist5k --data-dir mnist5k --num-samples 20 --output '
            's.npz',
        ),
    ),
    'dataset': Case('dataset --source digits --dest d.zip --max-images 3', None),
    'generate': Case('generate --network digits --outdir out --seeds 0-1 --steps 2', None),
    'sscd feature': Case(f'{FEATURES} f.npz', None),
    'sscd rpscore': Case('sscd rpscore --source f.npz --target f.npz', score, lay(f'{FEATURES} f.npz')),
    'sscd mscore': Case('sscd mscore --source f.npz --target f.npz', score, lay(f'{FEATURES} f.npz')),
    'sscd rpscore as published': Case(
        'sscd rpscore --source f.npz --target f.npz --as-published',
        lambda row: f'RP score =  {row["value"]}',
        lay(f'{FEATURES} f.npz'),
    ),
    'fid calc': Case(
        'fid calc --images mnist5k --ref r.npz --num 300 --features mnist5k',
        lambda row: f'{row["distance"]:g}\n',
        lay('fid ref --data mnist5k --dest r.npz --features mnist5k'),
    ),
    'fid ref': Case('fid ref --data mnist5k --dest r.npz --features mnist5k', None),
    'jacobian': Case(
        'jacobian --network digits --steps 2 --samples 2 --k 5',
        lambda row: (
            f'SNR 1/sigma_t: {row["snr"]:.3f}, rank: {">= " if row["least"] else ""}{row["rank"]:.6g}'
        ),
    ),
    'train-molrg': Case(
        'train-molrg --path data --img-res 4 --class-num 2 --per-class-dim 3 --sample-per-class 8 '
        '--embed-channels 32 --cres 1 --batch 8 --duration 0.000016 --nosubdir',
        None,
    ),
    'encoder-losses': Case(
        'S2 compute.py', lambda row: ' | '.join(map(str, [*map(row.get, LOSSES), float(row['runs'])]))
    ),
    'represent': Case(
        'represent --steps 2 --batch-size 8 --depth 10 --granularity 2 --max-images 8 --patch-size 2', None
    ),
    'represent of the study': Case('S2 representations.py synthetic reg-drl 0.0625 1e-4', None),
    'train-encoder': Case('S2 main.py reg-drl synthetic 0.0625', None),
    'mix': Case(
        'mix --granularity 2 --epochs 2 --mixers single,mean --lrs 0.01 --seeds 2',
        lambda row: f'{row["mixer"]} {row["percent"]:.1f}',
        lay('represent --steps 2 --batch-size 8 --depth 10 --granularity 2 --max-images 20 --patch-size 2'),
    ),
    'mix --mask': Case(
        'S2 attention ablation 0',
        lambda row: f'mask {row["mask"]}: {row["percent"]:.1f} % right at the learning rate {row["lr"]}',
    ),
    'mix --feat': Case('S2 cm ablation', None),
    'mix --perf': Case(
        'S2 cm perf',
        lambda row: f'Widen Factor: {row["widen_factor"]:g} | Test Accuracy: {row["percent"]}',
    ),
    'information': Case(
        'S2 nmi', lambda row: f'MI: {row["mi"]:.4g}, HI: {row["hi"]:.4g}, HJ: {row["hj"]:.4g} nats'
    ),
    'information --plot': Case('S2 compute_mi', lambda row: f'{row["normalised"]:.8f}'.rstrip('0')),
    'information --jsd': Case('S2 jsd', None),
    'information --activations': Case(
        'S2 cm activations', lambda row: f'test accuracies again to {row["points"]:.2g} points'
    ),
    'cas': Case(
        'cas --synthetic made.npz --real digits --max-real 40 --epochs 1 --seeds 2 --protocol epochs',
        cas,
        lay_synthetic,
    ),
    'measure': Case(
        'measure digits --data digits --n 2 --sigmas 0.5 --what dimension',
        lambda row: f'{row["value"]:11.4g} ({row["low"]:.4g}..{row["high"]:.4g})',
    ),
    'transition': Case('transition change.npz --bootstrap 20', transition, lay_change),
}


def smaller(case, monkeypatch):
    "Return the words of a line that is quick, and what is laid out before"
    if case.line not in LINE:
        return case.line, case.prepare
    line, run = LINE[case.line], RUNS[case.line]
    for name, value in run.environment.items():
        monkeypatch.setenv(name, value)
    run.smaller(monkeypatch)
    return shlex.join([*line.command.split(), *changed_words(line.words, run.change)]), run.prepare


def strict(text):
    "Return what JSON holds; AssertionError for NaN and Infinity, which it does not know"

    def refuse(word):
        raise AssertionError(f'{word} is no JSON')

    return json.loads(text, parse_constant=refuse)


def as_csv(value):
    "Return the cell of a value that JSON has"
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return '' if value is None else str(value)


def test_every_command_has_a_case():
    "A new command is listed here, or this fails"
    listed = {name for name in all_commands() if any(f'{case} '.startswith(f'{name} ') for case in CASES)}
    assert listed == all_commands().keys()


@pytest.mark.parametrize('name', CASES)
def test_table(name, tmp_path, monkeypatch):
    "The same rows as JSON and as CSV, described in the help, in the words that are printed; quiet again"
    case = CASES[name]
    line, prepare = smaller(case, monkeypatch)
    prepare(tmp_path)
    code, printed = call(f'{line} --json rows.json --csv rows.csv', tmp_path)
    assert code == 0, printed
    rows = strict((tmp_path / 'rows.json').read_text())
    cells = list(csv.DictReader(io.StringIO((tmp_path / 'rows.csv').read_text())))
    assert rows and len(rows) == len(cells)
    for row, cell in zip(rows, cells):
        assert list(row) == list(cell)
        unequal = {key for key, value in row.items() if as_csv(value) != cell[key]}
        assert all(cell[key] in ('nan', 'inf', '-inf') and row[key] is None for key in unequal)
    command = max((known for known in all_commands() if f'{name} '.startswith(f'{known} ')), key=len)
    assert rows[0].keys() <= root._COLUMNS.get(command.split()[-1], root._MADE).keys()
    if case.printed is not None:
        for row in rows:
            assert case.printed(row) in printed, (row, printed)
    elif 'count' in rows[0]:
        check_made(rows, printed)

    before = files_of(tmp_path)
    code, again = call(f'{line} --quiet --json rows.json', tmp_path)
    assert code == 0, again
    assert all(word in files_of(tmp_path) for word in before)
    if case.printed is None and name != 'information --jsd':
        assert again == ''
        return
    facts, last = printed.splitlines()[0], printed.splitlines()[-1]
    assert facts not in again.splitlines() or name in (
        'info',
        'mix --perf',
        'encoder-losses',
        'train dry run',
    )
    assert again and (last not in again.splitlines() or ' s: ' not in last)
    assert case.printed is None or case.printed(strict((tmp_path / 'rows.json').read_text())[0]) in again


def check_made(rows, printed):
    "Check the row of a command whose files are the result against its last line"
    (row,) = rows
    last = printed.splitlines()[-1]
    numbers = set(''.join(c if c.isdigit() else ' ' for c in last).split())
    assert row['count'] >= row.get('made', 0) >= 0
    if 'seconds' in row:
        assert f'{row["seconds"]:.1f} s: ' in last and all(file in last for file in row['files'])
    if 'images x' not in last and 'times' not in last and 'step ' not in last:
        assert {str(row['count']), str(row.get('made', row['count']))} & numbers
