"""What the tests share: options, the repository's root, programs, command lines, an explorer's page."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests marked slow, too')


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: runs only with --slow')
    config.addinivalue_line('markers', 'cuda: runs only where torch finds a GPU')


def pytest_collection_modifyitems(config, items):
    import torch

    for item in items:
        if 'slow' in item.keywords and not config.getoption('--slow'):
            item.add_marker(pytest.mark.skip(reason='slow: runs with --slow'))
        if 'cuda' in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='cuda: torch finds no GPU'))


@pytest.fixture(scope='session')
def root() -> Path:
    "The repository's root folder"
    return ROOT


@pytest.fixture(scope='session')
def run():
    "Run a program in a process of its own and return it, finished, with its text in `.stdout` and `.stderr`"

    def run(*command, timeout=300, env=None, **options):
        command = [str(part) for part in command]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=os.environ | (env or {}), **options
        )

    return run


@pytest.fixture(scope='session')
def python(run):
    "Run a line of Python in a process of its own; an error fails the test and is shown"

    def python(code, *arguments, **options):
        done = run(sys.executable, '-c', code, *arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


PAGE = """<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none';
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob: https:; connect-src https:">
<style>CSS</style><div id=el></div><script type=module>
SCRIPT
const state = STATE, blobs = BLOBS, listeners = {};
for (const name in blobs) {
  state[name] = new DataView(Uint8Array.from(atob(blobs[name]), (c) => c.charCodeAt(0)).buffer);
}
const known = (name) => { if (!(name in state)) throw new Error(`no trait ${String(name)}`); };
const event = (name) => {
  if (!/^(change|change:\\w+|msg:custom)$/.test(name)) throw new Error(`one event a call, got ${name}`);
  if (name.startsWith('change:')) known(name.slice(7));
  return (listeners[name] ??= new Set());
};
const emit = (name) => [...event(`change:${name}`), ...event('change')].forEach((f) => f());
let changed = {};
Object.assign(window, { state });
window.sent = []; // what save_changes sends to Python
const model = {
  get: (name) => { known(name); return state[name]; },
  set: (name, value) => {
    known(name);
    if (value === undefined) throw new Error(`${name} set to undefined`);
    changed[name] = value;
    if (JSON.stringify(state[name]) === JSON.stringify(value)) return;
    state[name] = value;
    emit(name);
  },
  save_changes: () => { window.sent.push(changed); changed = {}; },
  send: (message) => { // the kernel answers, unless `window.kernel` is 'busy' (never) or 'dead'
    if (window.kernel === 'dead') throw new Error('Cannot send');
    if (window.kernel !== 'busy') (listeners['msg:custom'] ?? []).forEach((f) => f(message));
  },
  on: (name, f) => { event(name).add(f); },
  off: (name, f) => { if (!event(name).delete(f)) throw new Error(`${name}: was not listened to`); },
};
// a message from Python: all at once as in Jupyter, or one by one as in marimo
window.receive = (values, one_by_one) => {
  if (!one_by_one) Object.assign(state, values);
  Object.entries(values).forEach(([name, value]) => { state[name] = value; emit(name); });
};
window.listening = () => Object.values(listeners).reduce((count, set) => count + set.size, 0);
const strict = new Proxy(model, { get: (target, name) => {
  if (!(name in target)) throw new Error(`model.${String(name)} is not in anywidget's interface`);
  return target[name];
} });
window.end = view.render({ model: strict, el: document.getElementById('el') });
</script>"""


@pytest.fixture
def on_a_page(tmp_path):
    """Draw an explorer by its script alone, on a page `width` px wide, by a model with only what anywidget
    promises: `sent` there has what goes to Python, `receive` brings traits; an error of the page fails"""
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('chromium is not installed')
    sync_playwright = pytest.importorskip('playwright.sync_api').sync_playwright

    @contextmanager
    def on_a_page(explorer, width=900, **changes):
        import anywidget

        own = set(explorer.traits(sync=True)) - set(anywidget.AnyWidget.class_traits(sync=True))
        values = {name: getattr(explorer, name) for name in own - {'_esm', '_css'}} | changes
        blobs = {name: base64.b64encode(v).decode() for name, v in values.items() if isinstance(v, bytes)}
        html = PAGE.replace('CSS', str(explorer._css)).replace('BLOBS', json.dumps(blobs))
        html = html.replace('STATE', json.dumps({name: v for name, v in values.items() if name not in blobs}))
        html = html.replace('SCRIPT', str(explorer._esm).replace('export default', 'const view ='))
        (tmp_path / 'page.html').write_text(html, encoding='utf-8')
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
            page, errors = browser.new_page(viewport={'width': width + 16, 'height': 900}), []
            page.on('pageerror', lambda error: errors.append(str(error)))
            page.goto((tmp_path / 'page.html').as_uri())
            page.locator('.df-explorer[data-drawn]').wait_for()
            yield page
            browser.close()
        assert errors == []

    return on_a_page


@pytest.fixture
def pixels_of():
    "Return the pixels of a canvas on a page as (H, W, 3) uint8"
    import numpy as np

    grab = 'c => [c.width, c.height, ...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]'

    def pixels_of(canvas):
        width, height, *shown = canvas.evaluate(grab)
        return np.array(shown, np.uint8).reshape(height, width, 4)[..., :3]

    return pixels_of


@pytest.fixture
def difflow_here(capsys, monkeypatch, tmp_path):
    "Run a line of `difflow` in this process, in an empty folder; return (exit code, stdout, stderr)"
    from difflow.cli import main

    monkeypatch.chdir(tmp_path)

    def difflow_here(line):
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line))
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return difflow_here
