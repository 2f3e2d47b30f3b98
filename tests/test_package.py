"""The package as people get it: metadata, import cost, generated code, sdist and wheel, notebooks, README."""

import ast
import json
import re
import shutil
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PACKAGE = ROOT / 'difflow'
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if not p.name.startswith('_'))
NOTEBOOKS = sorted(
    p for p in (ROOT / 'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.parts[-2:])
)
HEAVY = 'matplotlib sklearn torchvision ipywidgets accelerate'.split()
TEACHING = (  # rooms whose chapters have something to see
    'schedulers denoisers exact samplers features statistics '
    'sweeps reproducibility jacobians representations synthetic_data tutorials'
).split()
EMBEDDED_MODELS = ['mnist', 'mnist-class', 'colored-mnist', 'digits', 'emoji', 'photos']


def dotted(path):
    "Name a module as it is imported, without the package"
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def settings():
    "Return settings.ini as a mapping"
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def copy_of_checkout(folder):
    "Copy what a checkout holds, links as links, without what git ignores; return the copy"
    ignored = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', '_proc', '_docs')
    runs = {ROOT / 'runs', ROOT / 'nbs/tutorials/runs'}

    def leave_out(here, names):
        return ignored(here, names) | {name for name in names if Path(here) / name in runs}

    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=leave_out))


# What settings.ini says and what is installed


def test_version_licence_and_python_range():
    import difflow

    cfg, installed = settings(), metadata.metadata('difflow-lab')
    assert difflow.__version__ == cfg['version'] == installed['Version']
    assert cfg['license'] == 'apache2' and 'Apache-2.0' in (
        installed['License'],
        installed['License-Expression'],
    )
    assert installed['Requires-Python'] == f'>={cfg["min_python"]}'
    licence = (ROOT / 'LICENSE').read_text()
    assert (
        'Apache License' in licence
        and 'Version 2.0, January 2004' in licence
        and len(licence.split('\n')) > 195
    )
    assert sys.version_info >= tuple(int(n) for n in cfg['min_python'].split('.'))


def test_installed_requirements_are_those_of_settings():
    pytest.importorskip('packaging')
    from packaging.requirements import Requirement

    cfg = settings()
    names = {
        'plain': 'requirements',
        'dev': 'dev_requirements',
        'hub': 'hub_requirements',
        'peers': 'peers_requirements',
        'docs': 'docs_requirements',
    }
    wanted = {
        (r.name, str(r.specifier), extra)
        for extra, key in names.items()
        for r in map(Requirement, cfg[key].split())
    }
    extra = lambda r: re.search(r'extra == .(\w+)', str(r.marker))[1] if r.marker else 'plain'
    installed = {
        (r.name, str(r.specifier), extra(r)) for r in map(Requirement, metadata.requires('difflow-lab'))
    }
    assert wanted == installed


def test_changelog_tells_of_this_version():
    headings = re.findall(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), flags=re.M)
    assert headings[0] in ('Unreleased', settings()['version'])


def test_console_script():
    found = [e.value for e in metadata.entry_points(group='console_scripts') if e.name == 'difflow']
    assert found == ['difflow.cli.root:main'] and (BIN / 'difflow').exists()


# What an import costs


def light_modules():
    "Name every module but the widgets, which are classes of ipywidgets"
    return ['difflow', *(f'difflow.{dotted(p)}' for p in MODULES if p.parent.name != 'widgets')]


@pytest.fixture(scope='module')
def imports(python, tmp_path_factory):
    "Import each compiled module seven times, in forks that have torch: CPU seconds of torch, (own, modules)"
    code = """if True:
        import importlib, json, os, sys, time
        start = time.process_time()
        import torch
        whole = time.process_time() - start
        sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[1], False
        def once(name):
            read, write = os.pipe()
            if os.fork() == 0:
                start = time.process_time()
                importlib.import_module(name)
                os.write(write, json.dumps([time.process_time() - start, sorted(sys.modules)]).encode())
                os._exit(0)
            os.close(write)
            with open(read) as file: text = file.read()
            os.wait()
            return json.loads(text)
        print(json.dumps([whole, {name: [once(name) for _ in range(7)] for name in sys.argv[2:]}]))"""
    return json.loads(python(code, tmp_path_factory.mktemp('compiled'), *light_modules()))


@pytest.mark.parametrize('module', light_modules())
def test_import_is_light(module, imports):
    whole, times = imports
    seconds, loaded = zip(*times[module])
    limit = 0.1 if module == 'difflow' else 0.1 * whole
    assert min(seconds) < limit, f'CPU seconds {seconds} after {whole:.2f} for `import torch`'
    assert [name for name in HEAVY if name in loaded[0]] == []


# What nbdev writes, and how


def test_export_is_in_step(tmp_path, run):
    copy = copy_of_checkout(tmp_path / 'copy')
    for module in (copy / 'difflow').rglob('*.py'):
        if module.name not in ('__init__.py', '__main__.py'):
            module.unlink()
    done = run(BIN / 'nbdev_export', cwd=copy)
    assert done.returncode == 0, done.stderr
    here, there = (
        {str(p.relative_to(base)): p.read_text() for p in (base / 'difflow').rglob('*.py')}
        for base in (ROOT, copy)
    )
    assert sorted(here) == sorted(there)
    assert [name for name in here if here[name] != there[name]] == [], 'run nbdev_export'


def test_clean_notebooks_stay_as_they_are(tmp_path, run):
    copy = copy_of_checkout(tmp_path / 'copy')
    done = run(BIN / 'nbdev_clean', cwd=copy)
    assert done.returncode == 0, done.stderr
    names = [p.relative_to(ROOT) for p in NOTEBOOKS]
    assert [str(n) for n in names if (ROOT / n).read_bytes() != (copy / n).read_bytes()] == [], (
        'run nbdev_clean'
    )


@pytest.mark.parametrize('module', MODULES, ids=dotted)
def test_house_rules_of_a_module(module):
    source = module.read_text()
    written = source[source.index('# %% ../') :]
    long = [line for line in written.split('\n') if len(line) > 110]
    assert not long, f'lines over 110 characters: {long[:3]}'
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.names[0].name != '*', f'from {node.module} import *'
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.col_offset == 0 and node.name[0] != '_':
            assert ast.get_docstring(node), f'{node.name} has no docstring'
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 40, (
                f'{node.name} has {node.end_lineno - node.lineno + 1} lines'
            )


# What is built


@pytest.fixture(scope='module')
def built(tmp_path_factory, run):
    "Build sdist and wheel from a copy; the wheel from the sdist, as `python -m build` does"
    copy = copy_of_checkout(tmp_path_factory.mktemp('build') / 'difflow')
    done = run(sys.executable, '-m', 'build', '--no-isolation', cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Deprecat' not in done.stdout + done.stderr
    return next((copy / 'dist').glob('*.tar.gz')), next((copy / 'dist').glob('*.whl'))


def test_sdist_and_wheel_hold_what_the_checkout_holds(built):
    sdist, wheel = built
    with tarfile.open(sdist) as f:
        in_sdist = {name.split('/', 1)[-1] for name in f.getnames()}
    with zipfile.ZipFile(wheel) as f:
        in_wheel = set(f.namelist())
    package = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / 'difflow').rglob('*')
        if p.is_file() and '__pycache__' not in p.parts
    }
    assert package <= in_sdist and package <= in_wheel
    assert {'settings.ini', 'setup.py', 'README.md', 'LICENSE', 'CHANGELOG.md'} <= in_sdist
    assert any(name.endswith('dist-info/licenses/LICENSE') for name in in_wheel)
    assert {name.split('/')[0] for name in in_wheel} == {
        'difflow',
        f'difflow_lab-{settings()["version"]}.dist-info',
    }


def test_wheel_describes_itself_with_links_that_work_elsewhere(built):
    with zipfile.ZipFile(built[1]) as f:
        (name,) = [name for name in f.namelist() if name.endswith('.dist-info/METADATA')]
        about = f.read(name).decode()
    assert 'Name: difflow-lab\n' in about and 'Documentation, https://difflow.github.io/difflow/' in about
    targets = re.findall(r'\]\(([^)\s]+)', about) + re.findall(r'(?:src|href)="([^"]+)"', about)
    assert len(targets) > 20 and [t for t in targets if not t.startswith('https://')] == []
    for kind, path in re.findall(r'github\.com/difflow/difflow/(raw|blob)/main/([^)"\s]+)', about):
        assert (ROOT / path).is_file() and (kind == 'blob' or path.startswith('assets/'))


def test_wheel_works_where_it_is_installed(built, tmp_path, run, python):
    target = tmp_path / 'site'
    done = run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', target, built[1])
    assert done.returncode == 0, done.stderr
    code = f"""if True:
        import difflow
        from difflow import load_denoiser, load_images
        print(difflow.__file__)
        shapes = [load_denoiser(name).image_shape for name in {EMBEDDED_MODELS}]
        print(len(load_images('mnist5k')), *shapes)"""
    file, found = python(code, cwd=tmp_path, env={'PYTHONPATH': str(target)}).strip().split('\n')
    assert Path(file).is_relative_to(target) and found.startswith('5000 (1, ')


def test_embedded_files_are_small_and_state_their_licence():
    files = list((ROOT / 'difflow' / 'embedded').iterdir())
    weights = [f for f in files if f.suffix == '.safetensors']
    assert {f.stem for f in weights} == set(EMBEDDED_MODELS)
    assert all(f.stat().st_size < 12e6 for f in weights)
    for name in ('mnist5k', 'emoji', 'photos'):
        assert (ROOT / f'difflow/embedded/LICENSE-{name}.txt').exists()


# What is read


def cells(path):
    return json.loads(path.read_text())['cells']


def source(cell):
    return ''.join(cell['source'])


def outputs(path):
    return [o for c in cells(path) for o in c.get('outputs', [])]


def data_of(output):
    return output.get('data', {}).keys()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_executed(path):
    found = outputs(path)
    assert found, 'no outputs are committed'
    assert not [o['evalue'] for o in found if o['output_type'] == 'error']
    if path.parent.name in TEACHING or path.stem in ('index', '01_noise'):
        assert any('image/png' in data_of(o) for o in found), 'no picture'


def not_exported(path):
    "Yield the code cells that nbdev reads and that are neither exported nor switched off"
    for cell in cells(path):
        shown = not re.search(r'^#\| *(exports?|exporti|exec_doc|eval: *false)\b', source(cell), flags=re.M)
        if cell['cell_type'] == 'code' and shown and 'nbdev_export()' not in source(cell):
            yield source(cell)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_have_cells_of_their_own(path):
    "What nbdev asks for: it runs a cell with imports, and no other, when it makes pages"
    for text in not_exported(path):
        try:
            nodes = list(ast.walk(ast.parse(text)))
        except SyntaxError:  # a line of the shell, or a magic
            continue
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(text).body}
        assert kinds != {True, False}, f'imports and other code in one cell:\n{text}'
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes):
            assert not any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes), (
                f'an import within other code:\n{text}'
            )


def test_no_text_names_a_path_of_one_machine():
    pattern = re.compile(r'(?<![\w.$}])/(work|root|tmp|home)/\w')
    for path in NOTEBOOKS:
        printed = [
            json.dumps(o.get('text', [v for k, v in o.get('data', {}).items() if not k.startswith('image/')]))
            for o in outputs(path)
        ]
        text = '\n'.join([source(c) for c in cells(path)] + printed)
        assert not pattern.search(text), f'{path.name}: {pattern.search(text)[0]}'
    texts = [*ROOT.glob('*.md'), *ROOT.glob('*.ini'), *MODULES, ROOT / '.ci/run', *ROOT.glob('tests/**/*.py')]
    texts += [*ROOT.glob('docs/*.*'), *ROOT.glob('docs/static/*')]
    for path in texts:
        assert not pattern.search(path.read_text()), f'{path.name}: {pattern.search(path.read_text())[0]}'


def test_index_is_linked():
    link = ROOT / 'nbs' / 'index.ipynb'
    assert link.is_symlink() and str(link.readlink()) == '../index.ipynb'
    assert link.resolve() == ROOT / 'index.ipynb'


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / '.ci/run').read_text()
    assert (ROOT / '.ci/run').stat().st_mode & 0o111
    places = [
        script.index(part)
        for part in (
            "pip install -qq -e '.[dev,docs]'",
            '\nnbdev_clean\n',
            '\nnbdev_export\n',
            'nbdev_test\n',
            'docs/prepare.py',
            'pytest -',
        )
    ]
    assert places == sorted(places)
