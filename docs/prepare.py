"""Make the site: `python docs/prepare.py FOLDER` writes FOLDER/source, and FOLDER/html by Sphinx.

Notebooks become pages with their committed outputs: hidden cells are dropped, exported code becomes
signatures and tables of parameters, explorers become live without a kernel.
"""

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path

from explorers import WIDGET, all_states, is_picture, live, read, source
from reference import offered, reference

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / 'nbs'
_ROOMS = 'files data noise schedulers networks denoisers checkpoints exact samplers runs training'
GROUPS = {  # rooms in the order of imports
    'What a diffusion model is': [*_ROOMS.split(), 'features', 'statistics'],
    'What we ask of it': 'sweeps reproducibility jacobians representations synthetic_data'.split(),
    'Where people meet it': 'widgets cli'.split(),
}
TUTORIALS = 'tutorials', 'A chapter a paper; the embedded models, all explorers in colour, and clusters.'
EXPORTED = re.compile(r'^#\| *exports?\b', re.M)
HIDDEN = re.compile(r'^#\| *(hide|default_exp|exporti)\b', re.M)


# What there is


@cache
def chapters() -> dict[str, list[Path]]:
    "Return the notebooks of every room, and of the tutorials, in reading order"
    rooms = {}
    for room in [TUTORIALS[0], *(room for rooms in GROUPS.values() for room in rooms)]:
        found = sorted((NOTEBOOKS / room).glob('*.ipynb')) or sorted(NOTEBOOKS.glob(f'[0-9]*_{room}.ipynb'))
        rooms[room] = found
    return rooms


def place(path: Path) -> str:
    "Return the path of a file in the repository"
    return path.relative_to(ROOT).as_posix()


def title(path: Path) -> tuple[str, str]:
    "Return the title of a notebook, and the line that says what it is about"
    text = next(source(cell) for cell in read(path)['cells'] if cell['cell_type'] == 'markdown')
    return re.match(r'# (.*)', text)[1], re.search(r'^> (.*)', text, flags=re.M)[1]


def about(room: str) -> str:
    "Return the line that says what a room is about: the docstring of its door"
    if room == TUTORIALS[0]:
        return TUTORIALS[1]
    door = ROOT / 'difflow' / room / '__init__.py'
    if not door.exists():
        return title(chapters()[room][0])[1]
    return ast.get_docstring(ast.parse(door.read_text(encoding='utf-8')))


# Pages


def links(text: str, path: Path, pages: set[Path]) -> str:
    "Point links to files of the repository that are no pages and no pictures to where the source is"

    def link(match: re.Match) -> str:
        target, anchor = re.match(r'([^#]*)(.*)', match[1]).groups()
        file = (path.parent / target).resolve()
        if not target:
            return f']({anchor.lower()})'  # Jupyter keeps the capitals of a heading, the pages do not
        if '://' in target or not file.is_relative_to(ROOT) or not file.exists():
            return match[0]
        if file in pages or file.suffix in ('.png', '.gif', '.svg'):
            return f']({target}{anchor.lower()})'
        kind = 'tree' if file.is_dir() else 'blob'
        return f']({settings()["git_url"]}/{kind}/{settings()["branch"]}/{place(file)}{anchor})'

    return re.sub(r'\]\(([^)\s]+)\)', link, text)


@cache
def settings() -> dict[str, str]:
    "Return settings.ini"
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return dict(parser['DEFAULT'])


def named(text: str) -> str:
    "Let the names of the front door, between backticks in prose, lead to what describes them"
    front = {full.removeprefix('difflow.'): full for full in offered().values() if full.count('.') == 1}

    def name(match: re.Match) -> str:
        full = front.get(match[1])
        return match[0] if full is None else f'{{py:obj}}`{match[1]} <{full}>`'

    parts = re.split(r'(^```.*?^```|^#.*?$|\[[^\]]*\]\([^)]*\)|``[^`]+``)', text, flags=re.M | re.S)
    return ''.join(p if i % 2 else re.sub(r'(?<![`}])`(\w+)`(?!`)', name, p) for i, p in enumerate(parts))


def output_of(output: dict, state: dict | None, present: set[str]) -> dict | None:
    "Return an output as the page shows it"
    data = output.get('data', {})
    if is_picture(output):
        png = ''.join(data['image/png'])
        return output | {
            'data': {'image/png': png} if state is None else {'text/html': live(state, png, present)}
        }
    return None if WIDGET in data else output  # a live view without a kernel, or a bar of progress


def page_of(path: Path, states: dict, pages: set[Path]) -> dict:
    "Return a notebook as its page"
    notebook, cells, present = read(path), [], set()
    module = next(
        (m[1] for c in notebook['cells'] if (m := re.match(r'#\| default_exp (\S+)', source(c)))), ''
    )
    for cell in notebook['cells']:
        text = source(cell)
        if cell['cell_type'] != 'code':
            text = links(text, path, pages)
            cells.append(cell | {'source': text if path.parent.name == 'cli' else named(text)})
        elif EXPORTED.search(text):
            if markdown := reference(text, f'difflow.{module}'):
                cells.append({'cell_type': 'markdown', 'id': cell['id'], 'metadata': {}, 'source': markdown})
        elif not HIDDEN.search(text):
            state = states.get(f'{path.name}#{cell["id"]}')
            outputs = [output_of(o, state, present) for o in cell['outputs']]
            text = re.sub(r'^#\|.*\n?', '', text, flags=re.M)
            cells.append(cell | {'source': text, 'outputs': [o for o in outputs if o]})
    language = {'name': 'python', 'pygments_lexer': 'ipython3'}
    return notebook | {'cells': cells, 'metadata': notebook['metadata'] | {'language_info': language}}


def listed(paths: list[Path], folder: str) -> list[str]:
    "Return a table of notebooks, with links from `folder`"
    lines = ['| chapter | what it is about |', '|---|---|']
    for path in paths:
        name, line = title(path)
        lines.append(
            f'| [{name}]({os.path.relpath(place(path), folder)}) | {line.replace("|", chr(92) + "|")} |'
        )
    return lines


def toctree(paths: list[str], *options: str) -> str:
    "Return a table of contents that only the sidebar shows"
    return '\n'.join(['```{toctree}', ':hidden:', *options, '', *paths, '```'])


def room_page(room: str) -> str:
    "Return the page of a room: what it is about, and its chapters"
    name = room if room == TUTORIALS[0] else f'`{room}`'
    files = [path.name for path in chapters()[room]]
    return '\n'.join(
        [f'# {name}', '', about(room), '', *listed(chapters()[room], f'nbs/{room}'), '', toctree(files)]
    )


def notebooks_page() -> str:
    "Return the page that lists every notebook"
    lines = [
        '# The notebooks',
        '',
        'One notebook is one module is one noun: `nbs/<room>/NN_name.ipynb` exports ',
    ]
    lines[-1] += '`difflow/<room>/name.py`. The number is the order to read in.'
    for group, rooms in {'Chapters, one a paper': [TUTORIALS[0]], **GROUPS}.items():
        lines += ['', f'## {group}']
        for room in rooms:
            lines += ['', f'### {room}', '', about(room), '', *listed(chapters()[room], 'docs')]
    return '\n'.join(lines)


def pages() -> list[Path]:
    "Return the notebooks and the texts that become pages; README is the face elsewhere, index.ipynb here"
    texts = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')]
    texts = [path for path in texts if path.name not in ('README.md', 'reading.md')]
    return [ROOT / 'index.ipynb', *(path for paths in chapters().values() for path in paths), *sorted(texts)]


def contents() -> str:
    "Return what the front page ends with: the reading order, and the sidebar"
    text = (ROOT / 'docs/reading.md').read_text(encoding='utf-8')
    text = re.sub(r'\]\((?!\w+://)', '](docs/', text).replace('](docs/../', '](')
    half_hour = re.search(r'^## Half an hour\n(.*?)^## ', text, flags=re.M | re.S)[1]
    studies = re.search(r'^## One path a study\n(.*?)(^## |\Z)', text, flags=re.M | re.S)[1]
    found = lambda part: list(dict.fromkeys(re.findall(r'\]\(([^)#\s]+\.(?:ipynb|md))', part)))
    text += 'All chapters are listed [on one page](docs/notebooks.md).'
    lines = [text, '', toctree(found(half_hour), ':caption: Half an hour')]
    lines += ['', toctree([p for p in found(studies) if p.endswith('.md')], ':caption: One path a study')]
    for group, rooms in {'Chapters': [TUTORIALS[0]], **GROUPS}.items():
        files = [place(chapters()[room][0]) if is_alone(room) else f'nbs/{room}/index.md' for room in rooms]
        lines += ['', toctree(files, f':caption: {group}')]
    last = [
        'docs/notebooks.md',
        'docs/speed.md',
        *sorted(p.name for p in pages() if p.suffix == '.md' and p.parent == ROOT),
    ]
    return '\n'.join([*lines, '', toctree(last, ':caption: About')])


def is_alone(room: str) -> bool:
    "Return whether a room is a single notebook"
    return chapters()[room][0].parent == NOTEBOOKS


def sources(states: dict, wanted: list[Path]) -> Iterator[tuple[str, str]]:
    "Yield the path and the text of every page that Sphinx reads"
    everything = {*pages(), ROOT / 'docs/notebooks.md'}
    for path in wanted:
        if path.suffix == '.md':
            yield place(path), links(path.read_text(encoding='utf-8'), path, everything)
            continue
        page = page_of(path, states, everything)
        if path == ROOT / 'index.ipynb':
            page['cells'].append(
                {'cell_type': 'markdown', 'id': 'contents', 'metadata': {}, 'source': contents()}
            )
        yield place(path), json.dumps(page)
    yield 'docs/notebooks.md', notebooks_page()
    for room in chapters():
        if not is_alone(room):
            yield f'nbs/{room}/index.md', room_page(room)


def write_source(folder: Path, states: dict, wanted: list[Path]) -> None:
    "Write what Sphinx reads, and leave what has not changed, which it does not read again"
    shutil.copytree(ROOT / 'assets', folder / 'assets', dirs_exist_ok=True)
    written = set()
    for name, text in sources(states, wanted):
        target = folder / name
        written.add(target)
        if not target.exists() or target.read_text(encoding='utf-8') != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding='utf-8')
    for path in [*folder.rglob('*.md'), *folder.rglob('*.ipynb')]:
        if path not in written:
            path.unlink()


# The site


REMOTE = re.compile(
    r'<(?:script|link|img|iframe|source|audio|video|embed|object)\b[^>]*?'
    r'(?:src|href|data|srcset)=["\']?((?:https?:)?//[^"\'\s>]*)',
    re.I,
)


def remote(html: Path) -> Iterator[str]:
    "Yield (page: address) of everything that a page would load from elsewhere"
    for path in sorted(html.rglob('*.html')):
        for tag in REMOTE.finditer(path.read_text(encoding='utf-8')):
            if 'rel="canonical"' not in tag[0]:
                yield f'{path.relative_to(html)}: {tag[1]}'
    for path in sorted(html.rglob('*.css')):
        for match in re.finditer(
            r'url\(["\']?((?:https?:)?//[^)"\']*)|@import\s+["\']((?:https?:)?//[^"\']*)',
            path.read_text(encoding='utf-8'),
        ):
            yield f'{path.relative_to(html)}: {match[1] or match[2]}'


def build(folder: Path, only: list[str] | None = None, strict: bool = True) -> Path:
    "Write the site below `folder` and return the place of its pages; `only`: some notebooks, for a test"
    wanted = pages() if only is None else [ROOT / name for name in only]
    states = all_states([p for p in wanted if p.suffix == '.ipynb'], folder / 'states')
    write_source(folder / 'source', states, wanted)
    command = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', '-j', 'auto', '-c', str(ROOT / 'docs')]
    command += ['-W', '--keep-going', '-n'] if strict else ['-Q']
    command += ['-d', str(folder / 'doctrees'), str(folder / 'source'), str(folder / 'html')]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)
    if found := list(remote(folder / 'html')):
        raise SystemExit('pages load from elsewhere:\n' + '\n'.join(found))
    return folder / 'html'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Make the site.')
    parser.add_argument('folder', type=Path, nargs='?', default=ROOT / '_docs', help='where it is written')
    with contextlib.suppress(KeyboardInterrupt):
        print(build(parser.parse_args().folder.resolve()))
