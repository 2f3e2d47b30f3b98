"""Explorers in other hosts than JupyterLab: marimo and Voila serve them, and a browser looks at them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from test_browser import CHROMIUM, INDEX, PATIENCE, PIXELS, chromium, drag, free_port, stop, until

from difflow import GaussianDenoiser, SweepExplorer, load_images

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine')

APP = """
import marimo

app = marimo.App()


@app.cell
def _():
    import marimo as mo
    from difflow import SweepExplorer, load_denoiser, load_images
    denoiser = load_denoiser('mnist')
    digits = load_images('mnist5k', split='test', max_images=24, seed=0)
    return SweepExplorer, denoiser, digits, mo


@app.cell
def _(SweepExplorer, denoiser, digits, mo):
    wrapped = mo.ui.anywidget(SweepExplorer(denoiser, digits, steps=20, levels=10))
    wrapped
    return (wrapped,)


@app.cell
def _(SweepExplorer, denoiser, digits):
    bare = SweepExplorer(denoiser, digits, image=3, steps=20, levels=10)
    bare
    return


@app.cell
def _(mo, wrapped):
    mo.md(f'Python has image {wrapped.image}, seed {wrapped.seed}, step {wrapped.step_reverse}.')
    return
"""


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(('127.0.0.1', port)) == 0


@contextlib.contextmanager
def served(folder, *command):
    "Serve by a program in a process of its own, `PORT` being its port; yield its address."
    port = free_port()
    command = [str(part).replace('PORT', str(port)) for part in command]
    env = dict(os.environ, PYTHONUNBUFFERED='1')
    for name in (
        'JUPYTER_CONFIG_DIR',
        'JUPYTER_RUNTIME_DIR',
        'JUPYTER_DATA_DIR',
        'IPYTHONDIR',
        'XDG_CONFIG_HOME',
    ):
        env[name] = str(folder / name.lower())
        (folder / name.lower()).mkdir()
    with open(folder / 'server.log', 'w') as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: listens(port) or server.poll() is not None)
        assert server.poll() is None, (folder / 'server.log').read_text()
        yield f'http://127.0.0.1:{port}'
    finally:
        stop(server)


def test_a_kernel_that_cannot_be_sent_to_is_gone_and_a_silent_one_is_not(on_a_page):
    "By the model alone: sending fails where the kernel has gone; where it is only silent, the view waits"
    images = torch.zeros(2, 1, 8, 8)
    explorer = SweepExplorer(GaussianDenoiser(images[0], 1.0), images, steps=4, levels=3, background=False)
    with on_a_page(explorer) as page:
        status, radio = page.locator('[role="status"]'), page.get_by_role('radio').nth(1)
        page.evaluate("window.kernel = 'busy'")
        radio.click()
        page.get_by_text('waiting: no word from the kernel').wait_for()
        assert radio.is_enabled()
        page.evaluate("window.kernel = 'dead'")
        page.get_by_text('the kernel is gone: run the cell again').wait_for()
        assert radio.is_disabled() and page.locator('[data-choice="seed"]').is_disabled()
        assert page.locator('.df-explorer').get_attribute('aria-busy') == 'false'
        page.evaluate('window.receive({ progress: 0.5 }, true)')  # a word from it after all
        page.get_by_text('waiting').wait_for()
        assert status.inner_text() == 'waiting'
        page.evaluate('window.end()')
        assert page.evaluate('window.listening()') == 0


@contextlib.contextmanager
def page_at(url, count):
    "Open a page and yield it once it has `count` finished explorers; an error on it fails the test."
    with chromium() as browser:
        page, errors = browser.new_page(viewport={'width': 1400, 'height': 1500}), []
        page.set_default_timeout(PATIENCE * 1000)
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto(url, wait_until='commit')  # Voila sends the page while its cells run
        page.locator('.df-explorer').nth(count - 1).wait_for()
        explorers = [page.locator('.df-explorer').nth(i) for i in range(count)]
        until(lambda: all(is_answered(explorer) for explorer in explorers))
        yield page, explorers
    assert errors == []


def is_answered(explorer):
    busy, names = explorer.get_attribute('aria-busy'), explorer.get_attribute('class').split()
    return busy == 'false' and 'df-waiting' not in names


def agree(explorer, level):
    "Check that slider, film strip and the big pictures show level number `level`."
    column = explorer.get_by_role('listbox').get_by_role('option').nth(level)
    assert column.get_attribute('aria-selected') == 'true'
    assert explorer.locator('input[type="range"]').input_value() == str(level)
    for row, name in enumerate(('noised', 'returned')):
        big = explorer.locator(f'canvas[data-panel="{name}"]').evaluate(PIXELS)
        assert big == column.locator('canvas').nth(row).evaluate(PIXELS), (level, name)
    return big


def test_marimo_strip_and_picture_agree_and_answer_every_choice(tmp_path):
    "An explorer in `mo.ui.anywidget` and a bare one: scrubbing, a new seed, another image, a bad value"
    pytest.importorskip('marimo', reason='marimo is not installed')
    (tmp_path / 'app.py').write_text(APP)
    command = [sys.executable, '-m', 'marimo', 'run', tmp_path / 'app.py', '--headless', '--no-token']
    digits = load_images('mnist5k', split='test', max_images=24, seed=0)
    with served(tmp_path, *command, '--host', '127.0.0.1', '--port', 'PORT') as url:
        with page_at(url, 2) as (page, explorers):
            for explorer in explorers:
                shown = []
                for level in (0, 10, 6):
                    explorer.get_by_role('listbox').get_by_role('option').nth(level).click()
                    shown.append(agree(explorer, level))
                assert shown[0] == explorer.locator('canvas[data-panel="original"]').evaluate(PIXELS)
                assert shown[0] != shown[1] != shown[2]
                explorer.locator('[data-choice="seed"]').fill('5')
                explorer.locator('[data-choice="seed"]').press('Enter')
                assert not is_answered(explorer)
                until(lambda explorer=explorer: is_answered(explorer))
                assert agree(explorer, 6) != shown[2]
                explorer.get_by_role('radio').nth(2).click()
                assert not is_answered(explorer)
                until(lambda explorer=explorer: is_answered(explorer))
                agree(explorer, 6)
                original = explorer.locator('canvas[data-panel="original"]').evaluate(PIXELS)
                assert original == digits.images[2, 0].flatten().tolist()
                explorer.locator('[data-choice="steps"]').fill('0')
                explorer.locator('[data-choice="steps"]').press('Enter')
                explorer.get_by_text('steps must be an int in 1..1000, got 0').wait_for()
            page.get_by_text('Python has image 2, seed 5, step 12.').wait_for()
            assert not page.get_by_text('the kernel is gone').count()
            page.screenshot(path=tmp_path / 'marimo.png', full_page=True)


def test_voila_slider_moves_the_picture(tmp_path):
    "index.ipynb as a page of its own: the slider works, the picture for pages without a kernel is hidden"
    pytest.importorskip('voila', reason='voila is not installed')
    shutil.copy(INDEX, tmp_path / 'index.ipynb')
    shutil.copytree(INDEX.parent / 'assets', tmp_path / 'assets')
    command = [sys.executable, '-m', 'voila', tmp_path / 'index.ipynb', '--no-browser', '--port=PORT']
    with served(tmp_path, *command, '--Voila.ip=127.0.0.1') as url, page_at(url, 1) as (page, [explorer]):
        last = int(explorer.locator('input[type="range"]').get_attribute('max'))
        seen = []
        for where in (0.0, 1.0):
            drag(page, explorer.locator('input[type="range"]'), where)
            seen.append(agree(explorer, round(where * last)))
        assert seen[0] == explorer.locator('canvas[data-panel="original"]').evaluate(PIXELS) != seen[1]
        pictures = page.locator('[data-df-picture]')
        assert pictures.count() == 1 and not pictures.first.is_visible()
        explorer.get_by_role('radio').nth(2).click()
        until(lambda: is_answered(explorer))
        assert agree(explorer, last) and explorer.locator('input[type="range"]').input_value() == str(last)
        page.screenshot(path=tmp_path / 'voila.png', full_page=True)
