"""How Sphinx makes the pages that `prepare.py` writes."""

import importlib.util
import shutil
from configparser import ConfigParser
from pathlib import Path

_parser = ConfigParser(delimiters=['='])
_parser.read(Path(__file__).parents[1] / 'settings.ini', encoding='utf-8')
_settings = _parser['DEFAULT']

project, author, release = _settings['title'], _settings['author'], _settings['version']
copyright = _settings['copyright']
extensions = ['myst_nb', 'sphinx.ext.mathjax']
html_theme = 'furo'
html_title = f'{project} {release}'
html_static_path = ['static']
html_css_files = ['difflow.css']
html_js_files = ['explorers.js']
html_copy_source = html_show_sourcelink = False
html_theme_options = {'source_repository': _settings['git_url'], 'source_branch': _settings['branch']}
html_theme_options |= {'top_of_page_buttons': ['view']}
pygments_style, pygments_dark_style = 'default', 'github-dark'
add_module_names = False
toc_object_entries_show_parents = 'hide'
python_maximum_signature_line_length = 88

nb_execution_mode = 'off'  # outputs are committed
nb_merge_streams = True
nb_ipywidgets_js = {}  # explorers live by a script of ours; that of ipywidgets comes from elsewhere
myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 4

mathjax_path = 'mathjax/tex-chtml.js'  # from this site: MathJax 3 as a wheel of PyPI brings it


def copy_mathjax(app, exception):
    "Copy MathJax and its fonts out of the wheel"
    if exception is None and app.builder.format == 'html':
        (folder,) = importlib.util.find_spec('sphinx-mathjax-offline').submodule_search_locations
        for part in ('tex-chtml.js', 'output/chtml/fonts/woff-v2'):
            target, origin = Path(app.outdir, '_static/mathjax', part), Path(folder, 'static/mathjax', part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(origin, target, dirs_exist_ok=True) if origin.is_dir() else shutil.copy(
                origin, target
            )


def drop_dead_links(app, page, template, context, doctree):
    "Show no link to the source of a page that `prepare.py` makes: it has none"
    if page.endswith('/index') or page == 'docs/notebooks':
        context['theme_source_repository'] = context['page_source_suffix'] = ''


def setup(app):
    "Add MathJax to what is written, and take dead links away"
    app.connect('build-finished', copy_mathjax)
    app.connect('html-page-context', drop_dead_links)
