"""`--version`, `--quiet`, where a table goes, and what a shell completes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from option_changes import all_commands, call, files_of

import difflow
from difflow.cli import options, root

DIFFLOW = Path(sys.executable).parent / 'difflow'
SAMPLE = 'sample --model digits --n 2 --steps 2 --out out'
HEAVY = {'torch', 'numpy', 'matplotlib', 'PIL'}


def apart(code, **environment):
    "Run Python in a process of its own; return what it printed and the modules that it has loaded"
    program = f'import sys\n{code}\nprint(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', program],
        env=os.environ | {'COLUMNS': '200'} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, modules = done.stdout.splitlines()
    return printed, set(modules.split())


RUN = 'from difflow.cli import main\ntry: main({})\nexcept SystemExit as end: assert not end.code, end.code'


def completed(shell, line):
    "Return what a shell gets for a line whose last word is not finished, and the modules of that"
    words = line.split(' ')
    bash = dict(COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    other = dict(_TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION='get-args')
    return apart(RUN.format([]), _DIFFLOW_COMPLETE=f'complete_{shell}', **bash if shell == 'bash' else other)


# Version


def test_version_is_a_line_and_light():
    printed, modules = apart(RUN.format(['--version']))
    assert printed == [f'difflow {difflow.__version__}'] and not HEAVY & modules


# Quiet


@pytest.mark.parametrize('line', [f'{SAMPLE} --quiet', f'--quiet {SAMPLE}'])
def test_a_quiet_command_prints_nothing_beside_its_files(line, tmp_path):
    assert call(line, tmp_path) == (0, '')
    assert len(list((tmp_path / 'out').glob('*.png'))) == 2


def test_a_quiet_group_prints_the_number_alone(tmp_path):
    line = 'fid --quiet ref --data mnist5k --dest r.npz --features mnist5k'
    assert call(line, tmp_path) == (0, '')
    code, printed = call(
        'fid --quiet calc --images mnist5k --ref r.npz --num 300 --features mnist5k', tmp_path
    )
    assert code == 0 and float(printed) > 0


def test_quiet_is_of_one_command(tmp_path):
    before = dict(os.environ)
    assert call(f'{SAMPLE} --quiet', tmp_path)[1] == ''
    assert call(SAMPLE, tmp_path)[1].startswith('model digits') and dict(os.environ) == before


def test_quiet_leaves_errors_and_no_notes(tmp_path):
    code, printed = call('sample --model digits --guidance 2 --quiet', tmp_path)
    assert code == 2 and printed.startswith('difflow: ') and printed.count('\n') == 1
    line = 'jacobian --network digits --steps 2 --samples 1 --k 2 --batch-size 3'
    assert 'has nothing to do here' in call(line, tmp_path)[1]
    assert 'has nothing to do here' not in call(f'{line} --restart --quiet', tmp_path)[1]


def test_quiet_shows_no_bar(monkeypatch):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
    monkeypatch.setattr(root, '_OUTPUT', root._Output())
    assert root._shows_bars()
    root._OUTPUT.quiet = True
    assert not root._shows_bars()


def test_quiet_downloads_show_no_bar():
    code = """
from typer.main import get_command
from difflow.cli.root import app
with get_command(app).make_context('difflow', ['--quiet', 'info', 'x']):
    from tqdm.auto import tqdm
    print(tqdm(total=1).disable)"""
    assert apart(code)[0] == ['True'] and apart(code.replace("'--quiet', ", ''))[0] == ['False']


def test_quiet_and_progress_are_two_answers(tmp_path):
    line = 'forward-backward --model digits --data-dir digits --progress --quiet'
    code, printed = call(line, tmp_path)
    assert code == 2 and '--progress and --quiet: give one of them' in printed and not os.listdir(tmp_path)


# Where a table goes


def test_with_a_dash_stdout_is_the_table_alone(tmp_path):
    for line, read in (('--json -', json.loads), ('--csv=-', lambda text: text.splitlines())):
        command = [DIFFLOW, *SAMPLE.split(), *line.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        table = read(done.stdout)
        assert table[0]['count'] == 2 if line == '--json -' else len(table) == 2
        assert done.stderr.startswith('model digits') and ' s: out' in done.stderr
    done = subprocess.run([*command, '--quiet'], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('count,made,seconds,files\n2,0,') and done.stderr == ''


@pytest.mark.parametrize(
    'words, message',
    [
        ('--json nowhere/rows.json', '--json nowhere/rows.json: there is no folder nowhere'),
        ('--csv .', '--csv .: it is a folder'),
        ('--json - --csv -', 'give each a place of its own'),
        ('--json rows --csv ./rows', 'give each a place of its own'),
        ('--csv out', '--csv out: out is the same file, give another name'),
        ('--csv', "'--csv' requires an argument"),
    ],
)
def test_a_bad_place_is_refused_before_the_work(words, message, tmp_path):
    code, printed = call(f'{SAMPLE} {words}', tmp_path)
    assert code == 2 and message in printed and not os.listdir(tmp_path), printed


def test_a_table_is_no_part_of_what_a_run_is(tmp_path):
    assert call(SAMPLE, tmp_path)[0] == 0
    before = files_of(tmp_path)
    assert call(f'{SAMPLE} --csv rows.csv --json rows.json --quiet', tmp_path)[0] == 0
    after = files_of(tmp_path)
    assert {name: after.pop(name) for name in ('rows.csv', 'rows.json')}
    assert after == before
    train = 'train --data digits --steps 1 --batch-size 8 --model-channels 32 --channel-mult 1 --out model'
    assert call(f'{train} --json rows.json', tmp_path)[0] == 0
    card = difflow.load_denoiser(tmp_path / 'model/model.safetensors').card
    (row,) = json.loads((tmp_path / 'rows.json').read_text())
    assert round(row['loss'], 5) == card['final_loss'] and row['count'] == row['made'] == 1
    assert 'json' not in card['command'] and '--steps 1' in card['command']


def test_a_table_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / 'rows.json').write_text('old')
    code, _ = call('sample --model digits --label 3 --json rows.json', tmp_path)
    assert code == 2 and os.listdir(tmp_path) == ['rows.json']
    assert (tmp_path / 'rows.json').read_text() == 'old'


def test_numbers_that_json_lacks():
    rows = [dict(a=float('nan'), b=1 / 3, c=[float('inf'), Path('x')]), dict(a=2)]
    assert json.loads(root._table_text(rows, 'abc', 'json')) == [
        {'a': None, 'b': 1 / 3, 'c': [None, 'x']},
        {'a': 2, 'b': None, 'c': None},
    ]
    assert root._table_text(rows[:1], 'ab', 'csv') == f'a,b\nnan,{1 / 3!r}\n'


def test_a_column_without_a_description_is_a_fault_of_ours(monkeypatch):
    monkeypatch.setattr(root, '_OUTPUT', root._Output(columns={'a': 'known'}))
    with pytest.raises(RuntimeError, match='columns without a description: b'):
        root._write_rows([dict(a=1, b=2)])


def test_help_describes_every_column(tmp_path):
    for name in all_commands():
        code, printed = call(f'{name} --help', tmp_path)
        words = ' '.join(printed.split())
        assert code == 0 and '--csv PATH' in words and '--quiet' in words
        for column in root._COLUMNS.get(name.split()[-1], root._MADE):
            assert f'{column}: ' in words, (name, column)


# Completion


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
@pytest.mark.parametrize(
    'line, wanted',
    [
        ('difflow s', {'sweep', 'sample', 'sscd'}),
        ('difflow sscd r', {'rpscore'}),
        ('difflow sample --sampl', {'--sampler', '--sampling-steps', '--sampling-only'}),
        ('difflow forward-backward --num_c', {'--num-classes', '--num-channels'}),
        ('difflow fid calc --q', {'--quiet'}),
        ('difflow --ver', {'--version'}),
        ('difflow sweep --sampler ', {'ddpm', 'ddim', 'euler', 'heun', 'dpmpp_2m'}),
        ('difflow sample --grid --model mnist', {'mnist', 'mnist-class'}),
        ('difflow info dig', {'digits'}),
        ('difflow train --data mnist5', {'mnist5k'}),
        ('difflow mix --mixers single,m', {'single,mean'}),
        ('difflow sample --grid=maybe --sampler e', {'euler'}),
        ('difflow sample --out ', set()),
    ],
)
def test_completion(shell, line, wanted):
    printed, modules = completed(shell, line)
    if shell == 'zsh':
        printed = [found[1] for found in (re.search('"([^"]+)"', word) for word in printed) if found]
    assert {word.split('\t')[0] for word in printed if word} == wanted
    assert not HEAVY & modules


def test_words_are_those_of_the_library():
    from difflow.checkpoints import embedded_models
    from difflow.data.builtin import EMBEDDED
    from difflow.data.studies import PUBLISHED_SETS
    from difflow.representations import MIXERS
    from difflow.samplers.registry import SAMPLERS

    assert options._MODELS.split() == embedded_models() and sorted(options._SETS.split()) == sorted(EMBEDDED)
    assert options._SAMPLERS.split() == list(SAMPLERS)
    assert options._PUBLISHED_NAMES.split() == list(PUBLISHED_SETS)
    mixers = all_commands()['mix'].params
    offered = next(o for o in mixers if o.name == 'mixers').default.split(',')
    assert offered == list(MIXERS)


def test_every_option_that_lists_its_words_offers_them():
    "Of an option whose help begins with words and commas, or whose default is a word"
    free = {'image', 'seeds', 'channel_mult', 'name', 'desc'}  # a word by accident
    missing = []
    for name, command in all_commands().items():
        for option in command.params:
            listed = re.match(r'[\w-]+(, [\w-]+)* or [\w-]+($|;|,| of)', option.help or '')
            if listed and option.name not in free and not offered_words(option):
                missing.append(f'{name} --{option.name}: {option.help}')
    assert not missing, missing


def offered_words(option):
    "Return what a shell gets for an option and no letters"
    from typer.main import get_command

    context = get_command(root.app).make_context('difflow', [], resilient_parsing=True)
    return [item.value for item in option.shell_complete(context, '')]


@pytest.mark.skipif(shutil.which('bash') is None, reason='there is no bash')
def test_bash_takes_the_script(tmp_path):
    "Install it in a home of its own, and let bash complete a line"
    environment = os.environ | {'HOME': str(tmp_path), 'PATH': f'{DIFFLOW.parent}:{os.environ["PATH"]}'}
    run = lambda script: (
        subprocess.run(
            ['bash', '--norc', '-c', f'{script}\ntrue'],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    run('difflow --install-completion')
    assert 'difflow' in (tmp_path / '.bashrc').read_text()
    words = 'COMP_WORDS=(difflow sweep --sampler eu); COMP_CWORD=3; _difflow_completion difflow'
    assert run(f'. ~/.bashrc\n{words}\necho "${{COMPREPLY[@]}}"') == 'euler\n'
