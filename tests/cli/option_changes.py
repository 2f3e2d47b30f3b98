"""A run, then the same line with an option changed: another run is refused, or its result is right."""

import io
import os
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from difflow.cli.root import _load_commands, app, main


def all_commands() -> dict[str, Any]:
    "Return the commands of `difflow` by their words, as 'sample' and 'sscd feature'"
    from typer.main import get_command

    _load_commands()
    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, 'commands', None)
        found |= {f'{name} {word}': part for word, part in inner.items()} if inner else {name: command}
    return found


def command_options(line: str) -> dict[str, Any]:
    "Return the options and arguments of the command of a line by the name that its function gives them"
    name = next(name for name in all_commands() if line.split()[: len(name.split())] == name.split())
    return {option.name: option for option in all_commands()[name].params}


def call(line: str, folder: Path) -> tuple[int, str]:
    "Run a line of `difflow` in this process, in `folder`; return the exit code and all that it printed"
    home, printed = os.getcwd(), io.StringIO()
    os.chdir(folder)
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            main(shlex.split(line))
    except SystemExit as stop:
        return stop.code or 0, printed.getvalue()
    finally:
        os.chdir(home)


def files_of(folder: Path) -> dict[str, bytes]:
    "Return the bytes of every file under `folder`"
    return {f'{p.relative_to(folder)}': p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


# what a foreign file cannot tell: each is tested on every command in test_cli_foreign_models.py
FOREIGN = (
    'key prediction dataset image_size num_heads num_head_channels use_new_attention_order schedule '
    'diffusion_steps rescale_timesteps load'.split()
)
GUIDED = [  # its flags in guided-diffusion: likewise
    f'guided_{name}'
    for name in 'num_channels num_res_blocks num_heads_upsample attention_resolutions channel_mult '
    'class_cond use_scale_shift_norm resblock_updown learn_sigma predict_xstart noise_schedule use_fp16 '
    'dropout use_checkpoint use_kl rescale_learned_sigmas timestep_respacing'.split()
]


class Change(NamedTuple):
    "What the base line gets: an option's other value, and words that the refusal has"

    value: str  # after the option's name; '' for a switch; all of the words where it begins with --
    named: str | None = None  # what the refusal calls it; None: the name of the option


def changed_line(line: str, option: Any, value: str) -> str:
    "Return the line with another value: click takes the last of two"
    return f'{line} {value}' if value.startswith('--') else f'{line} {option.opts[0]} {value}'.rstrip()


def check_change(
    option: str,
    line: str,  # the command and all that makes it quick
    changes: dict[
        str, str | tuple[str, str] | None
    ],  # of every option, as in `Change`; None: tested elsewhere
    base: Path,  # a folder in which `line` has run; it is copied
    scratch: Path,  # an empty folder
    inputs: Path | None = None,  # a folder of what the lines read, which is in `base`, too
    numbered: bool = False,  # runs lie in numbered folders: a file may lie under another number
) -> str:  # what the second run printed
    """Check that after `line` the changed line is refused by name and changes nothing, or leaves what it
    leaves in an empty folder"""
    options = command_options(line)
    changes = {name: None for name in [*FOREIGN, *GUIDED] if name in options} | changes
    assert not changes.keys() - options.keys(), 'changes of options that the command does not have'
    assert option in changes, f'--{option} is new: say in the table which other value it is tested with'
    if changes[option] is None:
        return ''
    change = Change(changes[option]) if isinstance(changes[option], str) else Change(*changes[option])
    other = changed_line(line, options[option], change.value)
    here, empty = scratch / 'here', scratch / 'empty'
    shutil.copytree(base, here, symlinks=True)
    shutil.copytree(inputs, empty, symlinks=True) if inputs else empty.mkdir()
    code, printed = call(other, empty)
    assert code == 0, f'{other}: {printed}'
    before = files_of(here)
    code, printed = call(other, here)
    assert code in (0, 2), printed
    if code == 2:
        refusal = printed.strip().split('\n')[-1]
        assert 'is of another run: ' in refusal and files_of(here) == before, printed
        named = {option, option.replace('_', '-')} if change.named is None else {change.named}
        assert any(f' {word} ' in refusal for word in named), refusal
        return printed
    after, expected = files_of(here), files_of(empty)
    bare = (lambda name: Path(name).name) if numbered else str
    found = {(bare(name), data) for name, data in after.items()}
    lines = lambda files, name: set(files.get(name, b'').splitlines())
    listed = lambda name: name.endswith('manifest.jsonl') and lines(expected, name) <= lines(after, name)
    wrong = [n for n, data in expected.items() if (bare(n), data) not in found and not listed(n)]
    assert not wrong, f'{other}: {wrong} differ from those of the same line in an empty folder'
    return printed
