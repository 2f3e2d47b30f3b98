"""The site: every chapter has its page, and nothing on a page comes from elsewhere or needs a kernel."""

import ast
import http.server
import os
import re
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / 'docs'))
import explorers  # noqa: E402
import prepare  # noqa: E402
import reference  # noqa: E402

CHAPTERS = [path for paths in prepare.chapters().values() for path in paths]
SOME = [
    'index.ipynb',
    'nbs/denoisers/00_base.ipynb',
    'nbs/samplers/11_sampling.ipynb',
]  # where no site is given
CHROMIUM = shutil.which('chromium')
CANVASES = 'e => Array.from(e.querySelectorAll("canvas"), c => c.toDataURL())'
CHANGED = f"""before => {{
    const now = ({CANVASES})(document.querySelector('.difflow-explorer'));
    return now.join() !== before.join();
}}"""


def test_every_chapter_is_listed():
    there = {p for p in (ROOT / 'nbs').rglob('*.ipynb') if p.stem != 'index' and p.parts[-2][0] != '.'}
    assert set(CHAPTERS) == there and len(CHAPTERS) == len(there)
    text = prepare.notebooks_page()
    for path in CHAPTERS:
        name, about = prepare.title(path)
        assert f'[{name}](../{prepare.place(path)})' in text and about.replace('|', '\\|') in text


def test_sidebar_leads_to_every_page():
    found = re.findall(r'^(\S+\.(?:md|ipynb))$', prepare.contents(), flags=re.M)
    for room, paths in prepare.chapters().items():
        files = re.findall(r'^(\S+\.ipynb)$', prepare.room_page(room), flags=re.M)
        if f'nbs/{room}/index.md' in found:
            assert files == [path.name for path in paths]
            found += [f'nbs/{room}/{name}' for name in files]
    wanted = {prepare.place(path) for path in prepare.pages()} - {'index.ipynb'}
    assert wanted <= set(found), wanted - set(found)


def test_newcomers_read_four_chapters_first():
    text = prepare.contents()
    first = text.index(':caption: Half an hour')
    half_hour = text[first : text.index('```', first)].split()[4:]
    assert [name.split('/')[1] for name in half_hour] == ['denoisers', 'samplers', 'sweeps', 'tutorials']
    places = [
        text.index(f':caption: {caption}') for caption in ('One path a study', *prepare.GROUPS, 'About')
    ]
    assert first < places[0] and places == sorted(places)


def test_names_in_prose_lead_to_what_describes_them():
    text = (
        'A `sample` of `sweep()` and [`sample`](a.md).\n\n## `sample`\n\n```python\n`sample`\n```\n`Denoiser`'
    )
    linked = prepare.named(text)
    assert linked.startswith('A {py:obj}`sample <difflow.sample>` of `sweep()` and [`sample`](a.md).')
    assert linked.endswith('## `sample`\n\n```python\n`sample`\n```\n{py:obj}`Denoiser <difflow.Denoiser>`')


CODE = """
class Thing:
    "Do a thing."
    def __init__(self,
        size:int, # pixels, 1..9
    ):
        self.size = size

    def half(self,
        to:float|None=None, # a | b
        *rest:int, # all `others`
        **options,
    ) -> tuple[int, int]: # (h, w)
        "Return half of it."

    def _own(self): "Return nothing."

def _private(x): return x
"""


def test_docments_become_tables():
    text = reference.reference('#| export\nimport os\n' + CODE, 'difflow.things')
    assert '{py:class} difflow.things.Thing(size)\nDo a thing.' in text
    assert '| `size` | `int` | pixels, 1..9 |' in text
    assert '{py:method} half(to=None, *rest, **options)\nReturn half of it.' in text
    assert '| `to` | `float \\| None` | `None` | a \\| b |' in text
    assert '| `*rest` | `int` |  | all `others` |' in text
    assert '| *returns* | `tuple[int, int]` |  | (h, w) |' in text
    described, source = text.split('<details')
    assert '_own' not in described and '_private' not in described and CODE.strip() in source
    assert reference.reference('#| export\nimport os', 'difflow.things') == ''


@pytest.mark.parametrize('path', CHAPTERS, ids=prepare.place)
def test_page_of_a_chapter(path):
    "What is hidden is gone, and every public function is described with every note on its parameters"
    cells = {cell['id']: cell for cell in explorers.read(path)['cells']}
    page = {c['id']: explorers.source(c) for c in prepare.page_of(path, {}, set(prepare.pages()))['cells']}
    assert not any(re.search(r'^#\|', text, flags=re.M) for text in page.values())
    for key, cell in cells.items():
        text = explorers.source(cell)
        if re.match(r'#\| *(hide|default_exp|exporti)', text):
            assert key not in page
        elif not re.match(r'#\| *export\b', text):
            assert key in page
        else:
            for node in ast.parse(text).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != '_':
                    assert re.search(rf'py:(function|class)}} \S+\.{node.name}(\(|$)', page[key], flags=re.M)
                if isinstance(node, ast.FunctionDef) and node.name[0] != '_':
                    for *_, note in reference.parameters(node, reference.comments(text)):
                        assert reference.prose(note) in page[key]


def test_what_comes_from_elsewhere_is_found(tmp_path):
    page = '<a href="https://a.org">a</a><script src="https://b.org/c.js"></script><img src="//d.org/e.png">'
    (tmp_path / 'page.html').write_text(page + '<link rel="stylesheet" href="style.css">')
    (tmp_path / 'style.css').write_text('@import "https://f.org/g.css"; h { background: url(i.png) }')
    found = ['page.html: https://b.org/c.js', 'page.html: //d.org/e.png', 'style.css: https://f.org/g.css']
    assert list(prepare.remote(tmp_path)) == found


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Return the folder of the pages: the whole site in CI, else some of them, made here"
    if given := os.environ.get('DIFFLOW_SITE'):
        return Path(given)
    for name in ('sphinx', 'myst_nb', 'furo', 'sphinx-mathjax-offline'):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install -e '.[docs]'")
    return prepare.build(tmp_path_factory.mktemp('site'), SOME, strict=False)


@pytest.fixture
def browse(site):
    "Open a page of the site, served on this machine, in Chromium; an error or another address fails"
    if CHROMIUM is None:
        pytest.skip('chromium is not installed')
    sync_playwright = pytest.importorskip('playwright.sync_api').sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, errors, asked = f'http://127.0.0.1:{server.server_port}/', [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page(viewport={'width': 1300, 'height': 1000})
        page.set_default_timeout(120_000)
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda said: errors.append(f'{said.location["url"]}: {said.text}'))
        page.on('request', lambda request: asked.append(request.url))

        def browse(name):
            page.goto(home + name)
            return page

        yield browse
        browser.close()
    server.shutdown()
    assert [url for url in asked if not url.startswith((home, 'data:', 'blob:'))] == []
    assert [text for text in errors if '/favicon.ico' not in text] == []


def test_nothing_comes_from_elsewhere(site):
    assert list(prepare.remote(site)) == [] and len(list(site.rglob('*.html'))) > 3


def test_slider_of_an_explorer_moves_without_a_kernel(browse):
    page = browse('index.html')
    explorer = page.locator('.difflow-explorer[data-live]').first
    explorer.wait_for()
    assert not explorer.locator('> img').is_visible()
    seen = [explorer.evaluate(CANVASES)]
    slider = explorer.locator('input[type="range"]').first
    for key in ('Home', 'End'):
        slider.press(key)
        page.wait_for_function(CHANGED, arg=seen[-1])  # frames may be decoded first
        seen.append(explorer.evaluate(CANVASES))
    assert seen[0] != seen[2] and 'no kernel on this page' in explorer.inner_text()


def test_formulas_are_drawn_and_the_text_is_searched(browse):
    page = browse('nbs/denoisers/00_base.html')
    page.locator('article mjx-container').first.wait_for()
    assert page.locator('mjx-merror').count() == 0
    page = browse('search.html?q=posterior')
    page.locator('#search-results li a[href*="denoisers/00_base.html"]').first.wait_for()


def test_parameters_stand_in_a_table(browse):
    page = browse('nbs/samplers/11_sampling.html')
    row = page.locator('dl.py:has(#difflow\\.sample) tr', has_text='guidance').first
    assert 'guidance, any number; 1: none' in row.inner_text() and '1.0' in row.inner_text()


@pytest.mark.parametrize('width', [375, 1300])
def test_page_is_as_wide_as_the_screen(browse, width):
    page = browse('index.html')
    page.set_viewport_size({'width': width, 'height': 800})
    page.locator('.difflow-explorer[data-live]').first.wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') <= width
