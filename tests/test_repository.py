"""What a repository shows and asks for: README, citation, forms, badges, requirements and their floor."""

import ast
import json
import re
import shlex
import stat
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from difflow.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
COMMANDS = ['pip install -e . && jupyter lab index.ipynb', "pip install -e '.[dev]' && nbdev_test && pytest"]
PLACE = 'https://github.com/difflow/difflow'
DISTRIBUTIONS = {'PIL': 'pillow', 'sklearn': 'scikit-learn', 'IPython': 'ipython', 'yaml': 'pyyaml'}
NAMED = r'([\w-]+)>=([\d.]+)(,<[\d.]+)?'


def settings():
    "Return settings.ini as a mapping"
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


EVERYTHING = [key for key in settings() if key.endswith('requirements')]


def source(cell):
    return ''.join(cell['source'])


def index_cells():
    return json.loads((ROOT / 'index.ipynb').read_text())['cells']


def blocks(text, language):
    "Return the fenced blocks of `text` in a language"
    return re.findall(rf'^```{language}\n(.*?)^```$', text, flags=re.M | re.S)


def table():
    "Return the four rows of the README, each a list of cells"
    rows = [re.split(r'(?<!\\) \| ', line.strip('| ')) for line in README.split('\n') if line[:1] == '|']
    assert rows[0] == ['paper', 'chapter', 'command', 'figure']
    return rows[2:]


# README


def test_readme_is_one_screen():
    lines = README.strip().split('\n')
    assert len(lines) <= 60
    assert not [line for line in lines if len(line) > 200 and line[0] not in '|[!']
    assert [len(row) for row in table()] == [4] * 4


def test_readme_and_index_say_the_same_two_commands():
    index = '\n'.join(source(c) for c in index_cells() if c['cell_type'] == 'markdown')
    for text in (README, index):
        shown = [line for block in blocks(text, 'sh') for line in block.split('\n') if 'pip install' in line]
        assert shown == COMMANDS


def test_readme_names_the_wheel_and_the_source():
    name = settings()['lib_name']
    assert name == 'difflow-lab' and f'`{name}`' in README and 'PyPI' in README and 'chemistry' in README
    assert f'pip install git+{PLACE}`' in README and f'git clone {PLACE} ' in README


def test_no_text_installs_the_other_project():
    "`pip install difflow`, with extras or without, is a package of chemistry"
    texts = [p for end in ('md', 'py', 'ipynb', 'yml', 'yaml') for p in ROOT.rglob(f'*.{end}')]
    texts = [p for p in [*texts, ROOT / 'binder/postBuild', ROOT / '.ci/run'] if '_docs' not in p.parts]
    taken = re.compile(r'difflow\[(?:hub|peers|dev|docs)\]|pip install [^\n`&]*(?<![/\w.-])difflow(?![-\w/])')
    found = {p.name: taken.search(p.read_text()) for p in texts if p != Path(__file__)}
    assert {name: hit[0] for name, hit in found.items() if hit} == {}


def test_links_lead_to_what_exists():
    pages = [*ROOT.glob('*.md'), ROOT / 'difflow/embedded/README.md']
    for page in filter(Path.exists, pages):
        text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
        targets = re.findall(r'\]\(([^)#\s]+)', text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
        broken = [t for t in targets if '://' not in t and not (page.parent / t).exists()]
        assert broken == [], page.name


def test_every_asset_is_shown_somewhere():
    texts = README + ''.join(p.read_text() for p in [ROOT / 'index.ipynb', *ROOT.glob('docs/*.md')])
    assert [p.name for p in (ROOT / 'assets').iterdir() if f'assets/{p.name}' not in texts] == []


def test_lines_of_python_run(python, tmp_path):
    (lines,) = blocks(README, 'python')
    assert len([line for line in lines.split('\n') if line.strip()]) == 6
    shown = python(f'{lines}\nprint(len(result.images), result.strip().size[0] > 300)', cwd=tmp_path)
    assert shown.split()[-2:] == ['13', 'True']


def moving_picture():
    "Return the command line under the moving picture, without `difflow`"
    (line,) = re.findall(r'`difflow (sweep [^`]*--gif sweep\.gif)`', README)
    return shlex.split(line)


def test_moving_picture_is_made_by_the_line_under_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(moving_picture())
    assert ended.value.code in (0, None)
    committed = ROOT / 'assets/sweep.gif'
    assert committed.stat().st_size < 1.5e6
    with Image.open('sweep.gif') as here, Image.open(committed) as there:
        assert here.size == there.size and here.n_frames == there.n_frames > 12
        assert here.convert('RGB').tobytes() == there.convert('RGB').tobytes()  # the image as it was sent


@pytest.mark.parametrize('row', [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_commands_of_the_table_run(row, tmp_path, monkeypatch):
    lines = re.findall(r'`difflow ([^`]*)`', table()[row][2])
    monkeypatch.chdir(tmp_path)
    for words in lines:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(words))
        assert ended.value.code in (0, None), words
    assert lines and [p for p in tmp_path.rglob('*') if p.suffix in ('.npz', '.png')]


# Colab and Binder


def test_badges_open_the_index():
    opened = [url for url in re.findall(r'\]\((https?://[^)]+)\)', README) if 'index.ipynb' in url]
    assert opened == [
        f'https://colab.research.google.com/github/{PLACE.split(".com/")[1]}/blob/main/index.ipynb',
        f'https://mybinder.org/v2/gh/{PLACE.split(".com/")[1]}/main?urlpath=lab/tree/index.ipynb',
    ]


def test_index_installs_itself_in_colab_and_nowhere_else():
    first = next(source(c) for c in index_cells() if c['cell_type'] == 'code')

    class Shell:
        def __init__(self, name):
            self.name, self.lines = name, []

        def __repr__(self):
            return f'<{self.name}.Shell object at 0x7f>'

        def run_line_magic(self, magic, line):
            self.lines.append(f'{magic} {line}')

    for name, lines in {
        'google.colab._shell': [f'pip install -q git+{PLACE}'],
        'ipykernel.zmqshell': [],
    }.items():
        shell = Shell(name)
        exec(first, {'get_ipython': lambda shell=shell: shell})
        assert shell.lines == lines


def test_binder_builds_from_this_checkout():
    script = ROOT / 'binder/postBuild'
    assert script.stat().st_mode & stat.S_IXUSR and script.read_text().startswith('#!/usr/bin/env bash\n')
    subprocess.run(['bash', '-n', script], check=True)
    assert 'pip install --no-cache-dir -e .\n' in script.read_text()
    version = re.fullmatch(r'python-(\d+)\.(\d+)\n', (ROOT / 'binder/runtime.txt').read_text())
    assert tuple(map(int, version.groups())) >= tuple(map(int, settings()['min_python'].split('.')))
    assert 'requirements.txt' not in [p.name for p in (ROOT / 'binder').iterdir()]  # settings.ini says them


# Citation, forms, security


def test_citation_follows_the_schema():
    "The keys that CFF 1.2.0 requires and allows, and its types of references"
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    required = {'cff-version', 'message', 'title', 'authors'}
    allowed = (
        'type abstract version license url keywords references repository-code date-released doi'.split()
    )
    assert required <= set(cited) <= required.union(allowed)
    assert (
        cited['cff-version'] == '1.2.0' and cited['type'] == 'software' and cited['license'] == 'Apache-2.0'
    )
    assert cited['version'] == settings()['version'] and cited['repository-code'] == PLACE
    for reference in cited['references']:
        assert {'type', 'title', 'authors'} <= set(reference)
        assert reference['type'] in 'article conference-paper generic software'.split()
        assert all({'given-names', 'family-names'} == set(a) for a in reference['authors'])
    assert all(isinstance(a['name'], str) for a in cited['authors'])


def test_papers_are_the_same_in_citation_bibtex_and_readme():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())['references']
    bibtex = (ROOT / 'docs/papers.bib').read_text()
    entries = re.split(r'^@', bibtex, flags=re.M)[1:]
    assert len(entries) == len(cited)
    for entry, reference in zip(entries, cited):
        assert entry.count('{') == entry.count('}')
        field = dict(re.findall(r'^  (\w+) *= \{(.*)\},$', entry, flags=re.M))
        assert field['title'] == reference['title'] and field['year'] == str(reference['year'])
        names = [f'{a["family-names"]}, {a["given-names"]}' for a in reference['authors']]
        assert field['author'] == ' and '.join(names)
        assert reference.get('doi') == field.get('doi')
        if 'url' in reference:
            assert reference['url'] == f'https://arxiv.org/abs/{field["eprint"]}'
    papers = ' '.join(row[0] for row in table())
    assert set(re.findall(r'arxiv\.org/abs/([\d.]+)', papers)) <= set(
        re.findall(r'eprint *= \{([\d.]+)', bibtex)
    )
    assert set(re.findall(r'doi\.org/([^)]+)', papers)) <= set(re.findall(r'doi *= \{([^}]+)', bibtex))


@pytest.mark.parametrize('form', ['bug', 'checkpoint', 'question'])
def test_issue_forms_are_what_github_reads(form):
    read = yaml.safe_load((ROOT / f'.github/ISSUE_TEMPLATE/{form}.yml').read_text())
    assert {'name', 'description', 'body'} <= set(read)
    ids = [part['id'] for part in read['body']]
    assert len(set(ids)) == len(ids)
    for part in read['body']:
        assert part['type'] in 'markdown textarea input dropdown checkboxes'.split()
        assert part['attributes']['label'] and set(part) <= {'type', 'id', 'attributes', 'validations'}
    assert any(part.get('validations', {}).get('required') for part in read['body'])


@pytest.mark.parametrize('path', sorted((ROOT / '.github').rglob('*.y*ml')), ids=lambda p: p.name)
def test_files_for_github_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


RUNS_A_FILE = {
    *'pickle.load pickle.loads pickle.Unpickler torch.load torch.jit.load torch.hub.load'.split(),
    *'marshal.loads eval exec os.system joblib.load'.split(),
}


def test_nothing_in_a_file_is_run():
    "What SECURITY.md promises: no module calls what would run the content of a file"
    for path in sorted((ROOT / 'difflow').rglob('*.py')):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        called = {ast.unparse(call.func) for call in calls}
        assert called & RUNS_A_FILE == set(), path.name
        given = [k for call in calls for k in call.keywords if k.arg in ('allow_pickle', 'trust_remote_code')]
        assert [k.arg for k in given if ast.unparse(k.value) != 'False'] == [], path.name


def test_security_names_what_there_is():
    import difflow.files as files

    text = (ROOT / 'SECURITY.md').read_text()
    assert set(re.findall(r'DIFFLOW_\w+', text)) == set(files._BUDGETS)
    assert f'{PLACE}/security/advisories/new' in text


# What is asked for, and its lowest versions


def asked(*keys):
    "Return {name: lowest version} of what settings.ini asks for under `keys`"
    words = [word for key in keys for word in settings()[key].split()]
    return {name: low for name, low, _ in (re.fullmatch(NAMED, word).groups() for word in words)}


def test_every_requirement_has_a_lowest_version():
    for key in EVERYTHING:
        assert [w for w in settings()[key].split() if not re.fullmatch(NAMED, w)] == [], key


def imported(path):
    "Yield the first word of every module that a file imports absolutely, wherever in it"
    if path.suffix == '.ipynb':
        code = [source(c) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
        text = '\n'.join(c for c in code if not re.search(r'^\s*[%!]', c, flags=re.M))
    else:
        text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split('.')[0]


@pytest.mark.parametrize(
    'folder, keys',
    [
        ('difflow', ['requirements', 'hub_requirements']),
        ('nbs', ['requirements', 'hub_requirements', 'dev_requirements']),
        ('tests', EVERYTHING),
        ('docs', EVERYTHING),
    ],
)
def test_what_is_imported_is_asked_for(folder, keys):
    files = [
        p for end in ('py', 'ipynb') for p in sorted((ROOT / folder).rglob(f'*.{end}')) if '/.' not in str(p)
    ]
    ours = {
        'difflow',
        *sys.stdlib_module_names,
        *(p.stem for f in ('tests', 'docs') for p in (ROOT / f).rglob('*.py')),
    }
    found = {name: path.name for path in files for name in imported(path) if name not in ours}
    names = {DISTRIBUTIONS.get(name, name).replace('_', '-').lower() for name in found}
    declared = {name.replace('_', '-').lower() for name in asked(*keys)}
    assert sorted(names - declared) == []


def test_requirements_are_used():
    "Nothing is installed for users that no module imports, but for JupyterLab"
    used = {DISTRIBUTIONS.get(n, n) for p in (ROOT / 'difflow').rglob('*.py') for n in imported(p)}
    assert set(asked('requirements')) - used == {'jupyterlab'}


def test_floor_is_the_lowest_of_everything():
    printed = subprocess.run([sys.executable, ROOT / '.ci/floor'], capture_output=True, text=True, check=True)
    lowest = asked(*(key for key in EVERYTHING if key not in ('hub_requirements', 'peers_requirements')))
    assert printed.stdout.split() == [f'{name}=={low}' for name, low in lowest.items()]
    assert lowest['torch'] == '2.6' and lowest['numpy'] == '1.26' and settings()['min_python'] == '3.10'
    workflow = yaml.safe_load((ROOT / '.github/workflows/test.yaml').read_text())
    floor = workflow['jobs']['floor']
    assert floor['container'].startswith(f'python:{settings()["min_python"]}-')
    assert 'PIP_CONSTRAINT="$PWD/../floor.txt" bash .ci/run' in [step.get('run') for step in floor['steps']]
