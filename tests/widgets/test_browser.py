"""The main job in a real browser: JupyterLab runs index.ipynb, and the slider moves the pictures."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

INDEX = Path(__file__).parents[2] / 'index.ipynb'
PATIENCE = 180  # s, for each thing that is waited for
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
CELLS = [
    "from difflow import SweepExplorer, load_denoiser, load_images\n\ndenoiser = load_denoiser('mnist')",
    "digits = load_images('mnist5k', split='test', max_images=24, seed=0)\n"
    'explorer = SweepExplorer(denoiser, digits)\nexplorer',
]
EXPLORER = (
    "next(w for w in __import__('ipywidgets').widgets.widget._instances.values()"
    " if type(w).__name__ == 'SweepExplorer')"
)
PIXELS = """c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data
                   .filter((_, i) => i % 4 === 0))"""  # the red of every pixel


def write_notebook(path, cells=None):
    "Write index.ipynb to `path`, or a notebook of `cells`."
    import nbformat

    if cells is None and INDEX.exists():
        return shutil.copy(INDEX, path)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells or CELLS])
    nb.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    nbformat.write(nb, path)


def until(true):
    "Wait until `true()` holds."
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f'still not so after {PATIENCE} s'
        time.sleep(0.05)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def answers(url):
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url, timeout=2).close()
        return True


def stop(server):
    "End a server with its kernels; one whose kernel was killed a moment ago may not find its end."
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@contextlib.contextmanager
def jupyterlab(folder, theme='JupyterLab Light'):
    "Serve `folder/root` by a JupyterLab with fresh settings; yield its address and its runtime folder."
    port, env = free_port(), dict(os.environ, PYTHONUNBUFFERED='1')
    for name in ('JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTER_DATA_DIR', 'IPYTHONDIR', 'settings'):
        env[name] = str(folder / name.lower())
        (folder / name.lower()).mkdir()
    (folder / 'settings' / 'overrides.json').write_text(
        json.dumps(
            {
                '@jupyterlab/apputils-extension:notification': {
                    'fetchNews': 'false',
                    'checkForUpdates': False,
                },
                '@jupyterlab/apputils-extension:themes': {'theme': theme},
            }
        )
    )
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        '--ip=127.0.0.1',
        f'--port={port}',
        '--ServerApp.port_retries=0',
        '--IdentityProvider.token=',
        f'--ServerApp.root_dir={folder / "root"}',
        f'--LabApp.app_settings_dir={folder / "settings"}',
    ]
    with open(folder / 'server.log', 'w') as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f'http://127.0.0.1:{port}'
        until(lambda: answers(f'{url}/api') or server.poll() is not None)
        assert server.poll() is None, (folder / 'server.log').read_text()
        yield url, folder / 'jupyter_runtime_dir'
    finally:
        stop(server)


@contextlib.contextmanager
def chromium():
    "Yield a headless Chromium."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Kernel:
    "Talk to the one kernel that JupyterLab started, beside the browser."

    def __init__(self, runtime):
        from jupyter_client import BlockingKernelClient

        (file,) = runtime.glob('kernel-*.json')
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(PATIENCE)

    def ask(self, expression):
        "Return the value of a Python literal that `expression` yields in the kernel."
        reply = self.client.execute(
            '', silent=True, user_expressions={'v': expression}, reply=True, timeout=PATIENCE
        )
        value = reply['content']['user_expressions']['v']
        assert value['status'] == 'ok', value
        return ast.literal_eval(value['data']['text/plain'])

    def until(self, expression, value):
        "Wait until `expression` has `value`."
        until(lambda: self.ask(expression) == value)


def run_notebook(page, url, runtime, name):
    "Open a notebook, run all its cells once a kernel is there, and return the first explorer on the page."
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f'{url}/lab/tree/{name}?reset')
    page.locator('.jp-Notebook').wait_for()
    page.locator('.jp-Toolbar-kernelName', has_text=re.compile('python ?3', re.I)).wait_for(state='attached')
    until(lambda: list(runtime.glob('kernel-*.json')))
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for(state='attached')
    page.locator('.lm-MenuBar-itemLabel', has_text='Run').first.click()
    page.locator('.lm-Menu-itemLabel', has_text='Run All Cells').first.click()
    explorer = page.locator('.df-explorer').first
    explorer.wait_for()
    return explorer


def choose_in_menu(page, menu, item):
    "Choose from a menu of JupyterLab; a dialog that is open, or that follows, is accepted."
    accept = page.locator('.jp-Dialog .jp-mod-accept')
    if accept.count():
        accept.first.click()
    page.locator('.lm-MenuBar-itemLabel', has_text=menu).first.click()
    page.locator('.lm-Menu-itemLabel', has_text=re.compile(f'^{re.escape(item)}$')).first.click()
    if item.startswith('Restart'):
        accept.first.click()


def says(explorers, text):
    "Wait until the status lines of these explorers hold `text`."
    until(lambda: all(text in e.locator('[role="status"]').inner_text() for e in explorers))


def saved_pictures(path):
    "Return the pictures in the outputs of a notebook: what each answers, and its PNG as base64."
    try:
        cells = json.loads(path.read_text())['cells']
    except json.JSONDecodeError:  # it is being written
        return {}
    outputs = [output for cell in cells for output in cell.get('outputs', [])]
    found = [(o['data']['text/plain'], o['data']['image/png']) for o in outputs if 'image/png' in o['data']]
    return {''.join(text): ''.join(png).strip() for text, png in found}


def drag(page, slider, where):
    "Move the handle of a range input by mouse to the share `where` of its track."
    low, high, value = (float(slider.evaluate(f'e => e.{name}')) for name in ('min', 'max', 'value'))
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    at = lambda share: box['x'] + 8 + share * (box['width'] - 16)
    page.mouse.move(at((value - low) / (high - low)), box['y'] + box['height'] / 2)
    page.mouse.down()
    page.mouse.move(at(where), box['y'] + box['height'] / 2, steps=12)
    page.mouse.up()


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_slider_moves_the_picture_in_jupyterlab(tmp_path):
    pytest.importorskip('playwright', reason='playwright is not installed')
    (tmp_path / 'root').mkdir()
    write_notebook(tmp_path / 'root' / 'index.ipynb')
    with jupyterlab(tmp_path) as (url, runtime), chromium() as browser:
        page = browser.new_page(viewport={'width': 1400, 'height': 1100})
        explorer = run_notebook(page, url, runtime, 'index.ipynb')
        page.locator('.df-explorer[aria-busy="false"]').first.wait_for()
        page.screenshot(path=tmp_path / 'swept.png')
        kernel = Kernel(runtime)
        levels = kernel.ask(f'{EXPLORER}.steps_reverse')
        returned = explorer.locator('canvas[data-panel="returned"]')
        slider = explorer.locator('input[type="range"]')

        def agree(i):  # the canvas shows what Python holds for level i, and Python knows the level
            frame = f'{EXPLORER}.images[{i}, 0]'
            frame = kernel.ask(f"__import__('difflow').data.to_uint8({frame}).numpy().tobytes()")
            assert returned.evaluate(PIXELS) == list(frame), (
                f'the canvas is not the frame of step_reverse {levels[i]}'
            )
            assert float(slider.input_value()) == i
            kernel.until(f'{EXPLORER}.step_reverse', levels[i])

        last = len(levels) - 1
        seen = []
        for where in (0.0, 1.0, 0.36):
            drag(page, slider, where)
            agree(round(where * last))
            seen.append(returned.evaluate(PIXELS))
        assert seen[0] == explorer.locator('canvas[data-panel="original"]').evaluate(PIXELS)
        assert seen[0] != seen[1] != seen[2]
        page.keyboard.press('ArrowRight')
        agree(round(0.36 * last) + 1)
        explorer.get_by_role('listbox').focus()
        page.keyboard.press('ArrowLeft')
        page.keyboard.press('ArrowLeft')
        agree(round(0.36 * last) - 1)
        explorer.get_by_role('listbox').get_by_role('option').nth(last - 1).click()
        agree(last - 1)
        done = tmp_path / 'done'
        kernel.client.execute(f'import os, time\nwhile not os.path.exists({str(done)!r}): time.sleep(0.02)')
        slider.press('Home')  # the kernel is busy: scrubbing does not need it
        assert returned.evaluate(PIXELS) == seen[0]
        page.screenshot(path=tmp_path / 'scrubbed.png')
        done.touch()
        kernel.until(f'{EXPLORER}.step_reverse', 0)
        explorer.get_by_role('radio').nth(2).click()  # another image: a new sweep
        kernel.until(f'{EXPLORER}.image', 2)
        kernel.ask(f'{EXPLORER}.wait({PATIENCE}) is not None')
        page.locator('.df-explorer[aria-busy="false"]').first.wait_for()
        until(lambda: returned.evaluate(PIXELS) != seen[0])
        agree(0)
        page.screenshot(path=tmp_path / 'another.png')


HOSTED = [
    CELLS[0] + '\nfrom ipywidgets import HBox',
    CELLS[1],
    'boxed = SweepExplorer(denoiser, digits, image=1)\nHBox([boxed])',
]


def run_all(page):
    "Run the notebook on the page again, in a new kernel, and return its two explorers."
    choose_in_menu(page, 'Kernel', 'Restart Kernel and Run All Cells…')
    page.locator('.df-explorer').nth(1).wait_for()
    gone = page.get_by_text('the kernel is gone')  # the views from before
    until(lambda: not gone.count() and page.locator('.df-explorer[aria-busy="false"]').count() == 2)
    return [page.locator('.df-explorer').nth(i) for i in (0, 1)]


@pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')
def test_explorers_tell_waiting_from_answered_and_leave_their_picture(tmp_path):
    """An explorer, and one in a box: what the kernel does not answer waits, dimmed; a notebook that was saved
    reopens with the last finished picture; where the kernel was restarted or killed, the views say so"""
    pytest.importorskip('playwright', reason='playwright is not installed')
    (tmp_path / 'root').mkdir()
    path = tmp_path / 'root' / 'hosted.ipynb'
    write_notebook(path, HOSTED)
    with jupyterlab(tmp_path) as (url, runtime), chromium() as browser:
        page = browser.new_page(viewport={'width': 1400, 'height': 1800})
        run_notebook(page, url, runtime, 'hosted.ipynb')
        until(lambda: page.locator('.df-explorer[aria-busy="false"]').count() == 2)
        explorers = [page.locator('.df-explorer').nth(i) for i in (0, 1)]
        pictures = page.locator('[data-df-picture]')
        assert explorers[1].bounding_box()['width'] > 700  # in the box, too, it uses the width

        def hidden():
            return pictures.count() == 2 and not any(picture.is_visible() for picture in pictures.all())

        until(hidden)
        kernel = Kernel(runtime)
        pid = kernel.ask("__import__('os').getpid()")
        os.kill(pid, signal.SIGSTOP)  # JupyterLab reaches a kernel that only computes by a thread beside
        shown = [e.locator('canvas[data-panel="returned"]').evaluate(PIXELS) for e in explorers]
        for i, e in enumerate(explorers):
            e.get_by_role('radio').nth(5 + i).click()
        says(explorers, 'waiting: no word from the kernel')
        for e, before in zip(explorers, shown):
            assert 'df-waiting' in e.get_attribute('class') and e.get_attribute('aria-busy') == 'true'
            assert e.locator('canvas[data-panel="returned"]').evaluate(PIXELS) == before
        faint = 'c => Number(getComputedStyle(c).opacity) < 0.5'
        until(lambda: all(e.locator('canvas[data-panel="returned"]').evaluate(faint) for e in explorers))
        os.kill(pid, signal.SIGCONT)
        for i, e in enumerate(explorers):  # a seed is typed while the frames of the click come in
            e.locator('[data-choice="seed"]').fill(str(7 + i))
            e.locator('[data-choice="seed"]').press('Enter')
        kernel.until('(explorer.image, explorer.seed, boxed.image, boxed.seed)', (5, 7, 6, 8))
        kernel.ask(f'all(e.wait({PATIENCE}) for e in (explorer, boxed))')
        until(lambda: page.locator('.df-explorer[aria-busy="false"]:not(.df-waiting)').count() == 2)
        last = kernel.ask('[e._picture()["image/png"] for e in (explorer, boxed)]')
        assert hidden() and explorers[0].locator('canvas[data-panel="returned"]').evaluate(PIXELS) != shown[0]
        explorers[0].get_by_role('radio').nth(5).press('Control+s')  # not a key of ours
        until(lambda: sorted(saved_pictures(path).values()) == sorted(last))
        assert 'image=5' in min(saved_pictures(path)) and 'image=6' in max(saved_pictures(path))
        choose_in_menu(page, 'Kernel', 'Shut Down Kernel')
        says(explorers, 'the kernel is gone')
        assert explorers[0].get_by_role('radio').first.is_disabled()
        page.close()

        page = browser.new_page(viewport={'width': 1400, 'height': 1800})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f'{url}/lab/tree/hosted.ipynb?reset')
        pictures, error = page.locator('[data-df-picture]'), page.get_by_text('Error displaying widget')
        until(lambda: error.count() == 2)
        assert not any(e.is_visible() for e in error.all())
        assert [p.is_visible() for p in pictures.all()] == [True, True]
        assert [p.get_attribute('src').partition(',')[2] for p in pictures.all()] == last
        page.screenshot(path=tmp_path / 'reopened.png')

        explorers = run_all(page)
        choose_in_menu(page, 'Kernel', 'Restart Kernel…')
        says(explorers, 'the kernel is gone')
        explorers = run_all(page)
        os.kill(Kernel(runtime).ask("__import__('os').getpid()"), signal.SIGKILL)
        says(explorers, 'the kernel is gone')
