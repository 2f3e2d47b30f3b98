"""Explorers that live on a page without a kernel: what they need is saved when the pages are made."""

import base64
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDGET = 'application/vnd.jupyter.widget-view+json'
NOT_RUN = re.compile(r'^#\| *(slow|cuda|eval: *false)\b', re.M)
BASE_TRAITS = set('comm keys layout tabbable tooltip'.split())  # of every widget: nothing that a script reads


def read(path: Path) -> dict:
    "Return a notebook"
    return json.loads(path.read_text(encoding='utf-8'))


def source(cell: dict) -> str:
    "Return the text of a cell"
    return ''.join(cell['source'])


def packed(value: object) -> object:
    "Return the value of a trait for JSON: bytes become {'$bytes': base64}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {'$bytes': base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {name: packed(part) for name, part in value.items()}
    return [packed(part) for part in value] if isinstance(value, (list, tuple)) else value


def is_picture(output: dict) -> bool:
    "Return whether an output is the picture that stands for an explorer where no kernel is"
    data = output.get('data', {})
    return 'image/png' in data and (WIDGET in data or 'data-df-picture' in ''.join(data.get('text/html', '')))


def is_explorer(cell: dict) -> bool:
    "Return whether a cell shows an explorer"
    return any(map(is_picture, cell.get('outputs', [])))


def asked(path: Path) -> tuple[list[dict], str]:
    "Return the cells up to the last explorer of a notebook, and the digest of them and of the package"
    cells = [c for c in read(path)['cells'] if c['cell_type'] == 'code']
    last = max(i for i, cell in enumerate(cells) if is_explorer(cell))
    cells = [
        c for c in cells[: last + 1] if not NOT_RUN.search(source(c)) and 'nbdev_export()' not in source(c)
    ]
    digest = hashlib.sha256(''.join(map(source, cells)).encode())
    for file in sorted((ROOT / 'difflow').rglob('*.*')):
        if file.suffix in ('.py', '.js', '.css'):
            digest.update(file.read_bytes())
    return cells, digest.hexdigest()[:16]


def state_of(explorer: object) -> dict:
    "Return what an explorer needs to live on a page: its script, its style and its traits"
    traits = {n: packed(v) for n, v in explorer.get_state().items() if n not in BASE_TRAITS}
    script, style = str(traits.pop('_esm')), str(traits.pop('_css', ''))
    traits = {n: v for n, v in traits.items() if not re.match(r'_(model|view|dom|anywidget)_', n)}
    return dict(script=script, style=style, traits=traits | {'_static': True})


def explorers(path: Path, cells: list[dict]) -> dict[str, dict]:
    "Run cells of a notebook, in a process of its own; return the states of its explorers by cell"
    os.environ.setdefault('MPLBACKEND', 'agg')
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    os.chdir(path.parent)
    shell, states = InteractiveShell.instance(), {}
    for cell in cells:
        with capture_output():
            done = shell.run_cell(source(cell))
        if error := done.error_before_exec or done.error_in_exec:
            raise RuntimeError(f'{path.name}, cell {cell["id"]}: {type(error).__name__}: {error}')
        if is_explorer(cell):
            if hasattr(done.result, 'wait'):
                done.result.wait(300)
            states[cell['id']] = state_of(done.result)
    return states


def made(task: tuple[Path, list[dict], Path]) -> None:
    "Write the states of the explorers of a notebook to a file, unless they are there"
    path, cells, file = task
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            states = explorers(path, cells)
        file.with_suffix('.part').write_text(json.dumps(states), encoding='utf-8')
        file.with_suffix('.part').replace(file)


def all_states(paths: list[Path], folder: Path) -> dict[str, dict]:
    "Return the states of the explorers of all notebooks, by notebook and cell; `folder` keeps them"
    tasks = []
    for path in paths:
        if any(map(is_explorer, read(path)['cells'])):
            cells, digest = asked(path)
            tasks.append((path, cells, folder / f'{path.stem}-{digest}.json'))
    context = multiprocessing.get_context('spawn')
    with context.Pool(min(len(tasks), os.cpu_count()) or 1, maxtasksperchild=1) as pool:
        pool.map(made, tasks, chunksize=1)
    return {
        f'{path.name}#{cell}': state
        for path, _, file in tasks
        for cell, state in json.loads(file.read_text(encoding='utf-8')).items()
    }


def script_of(kind: str, name: str, value: object) -> str:
    "Return a value inside a page, as JSON in which no tag can end"
    text = json.dumps(value).replace('<', '\\u003c')
    return f'<script type="application/json" data-difflow="{kind}" data-name="{name}">{text}</script>'


def live(state: dict, png: str, present: set[str]) -> str:
    "Return an explorer as HTML: its picture, and what `explorers.js` makes it live with"
    parts = []
    for kind in ('script', 'style'):
        name = hashlib.sha256(state[kind].encode()).hexdigest()[:12]
        if name not in present:
            parts.append(script_of(kind, name, state[kind]))
            present.add(name)
        state = state | {kind: name}
    attributes = f'data-script="{state["script"]}" data-style="{state["style"]}"'
    picture = f'<img alt="The explorer as a picture" src="data:image/png;base64,{"".join(png.split())}">'
    inside = picture + script_of('traits', '', state['traits'])
    return ''.join([f'<div class="difflow-explorer" {attributes}>{inside}</div>', *parts])
