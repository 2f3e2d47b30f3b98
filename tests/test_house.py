"""The house: rooms, doors, public names, words, links: the rules of CONTRIBUTING.md."""

import ast
import importlib
import inspect
import json
import re
import sys
import typing
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, NOTEBOOKS = ROOT / 'difflow', ROOT / 'nbs'
ROOMS = (  # a room imports only from rooms above it
    'files data noise schedulers networks denoisers checkpoints exact samplers runs training features '
    'statistics sweeps reproducibility jacobians representations synthetic_data widgets cli'
).split()
STUDIES = 'sweeps reproducibility jacobians representations synthetic_data'.split()
SHARED_SCORES = {'reproducibility'}  # a study may use the scores of another
FACES = ['widgets', 'cli']
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if not p.name.startswith('_'))
CHAPTERS = sorted(p for p in NOTEBOOKS.rglob('*.ipynb') if not any(part[0] == '.' for part in p.parts))
LIMIT_OF_PUBLIC_NAMES = 320


def dotted(path):
    "Name a module as it is imported, without the package"
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def room(module):
    return module.split('.')[0]


@cache
def tree(path):
    return ast.parse(path.read_text())


def cells(path):
    return json.loads(path.read_text())['cells']


def source(cell):
    return ''.join(cell['source'])


def sources(path):
    "Yield (module without the package, names) of everything of ours that the module at `path` imports"
    folder = dotted(path).split('.')[:-1]
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            start = folder[: len(folder) - (node.level - 1)]
            yield '.'.join([*start, *([node.module] if node.module else [])]), [a.name for a in node.names]
        elif (node.module or '').split('.')[0] == 'difflow':
            yield node.module.removeprefix('difflow').lstrip('.'), [a.name for a in node.names]


def defined(path):
    "Return the names that a module defines at its top level, in order"
    names = []
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, 'target', None)]:
            names += [n.id for n in ast.walk(target) if isinstance(n, ast.Name)] if target is not None else []
    return [n for n in dict.fromkeys(names) if n != '__all__']


def offered(stub):
    "Return {name: file that defines it} of a door"
    nodes = [n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom)]
    return {a.asname or a.name: n.module for n in nodes for a in n.names}


FRONT = offered(PACKAGE / '__init__.pyi')
DOORS = {p.parent.name: offered(p) for p in PACKAGE.glob('*/__init__.pyi')}
PUBLIC = {dotted(p): [n for n in defined(p) if not n.startswith('_')] for p in MODULES}


# Rooms


def test_few_rooms_in_a_known_order():
    assert len([p for p in PACKAGE.iterdir() if p.name != '__pycache__']) <= 26
    assert {room(dotted(p)) for p in MODULES} == set(ROOMS)
    assert {p.name for p in NOTEBOOKS.iterdir() if p.is_dir() and p.name[0] != '.'} == {*DOORS, 'tutorials'}


def test_every_notebook_is_the_module_of_its_place():
    wanted = {}
    for path in CHAPTERS:
        place = path.relative_to(NOTEBOOKS)
        if place.parts[0] == 'tutorials' or place.name == 'index.ipynb':
            continue
        number, _, name = path.stem.partition('_')
        first, second, *_, last = cells(path)
        module = '.'.join([*place.parts[:-1], name])
        wanted[module] = path
        assert re.fullmatch(r'\d\d', number) and source(first).strip() == f'#| default_exp {module}', place
        assert re.match(r'# \S.*\n\n?> \S', source(second)) and second['cell_type'] == 'markdown', place
        assert source(last).startswith('#| hide') and 'nbdev.nbdev_export()' in source(last), place
    assert set(wanted) == {dotted(p) for p in MODULES}


def numbers():
    "Return the number of each module in its room"
    found = {}
    for path in CHAPTERS:
        number, _, name = path.stem.partition('_')
        if number.isdigit():
            found['.'.join([*path.relative_to(NOTEBOOKS).parts[:-1], name])] = int(number)
    return found


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_arrows_go_down(path):
    number, here = numbers(), dotted(path)
    for module, names in sources(path):
        if not module:  # `import difflow` for its version or its place
            continue
        assert module in number, f'{here} imports {names} from {module}, which defines nothing: name the file'
        if room(module) == room(here):
            assert number[module] < number[here], f'{here} imports from {module}'
        else:
            assert ROOMS.index(room(module)) < ROOMS.index(room(here)), f'{here} imports from {module}'
        assert room(module) not in FACES or room(here) in FACES
        if {room(module), room(here)} <= set(STUDIES) and room(module) != room(here):
            assert room(module) in SHARED_SCORES, f'the study {here} imports from the study {module}'
        for name in names:
            assert name in defined(PACKAGE / (module.replace('.', '/') + '.py')), (
                f'{module} does not define {name}'
            )
            assert room(module) == room(here) or name[0] != '_', (
                f'{here} imports {module}.{name}, which is private'
            )


def test_no_numbers_repeat_within_a_room():
    found = Counter((room(m), n) for m, n in numbers().items() if '.' in m)
    assert [place for place, count in found.items() if count > 1] == []


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_files_and_cells_are_short(path):
    text = path.read_text()
    assert text.count('\n') <= 300
    for cell in re.split(r'^# %% .*$', text, flags=re.M)[1:]:
        assert cell.strip('\n').count('\n') < 80, cell.strip('\n').split('\n')[0]


def test_tests_mirror_the_rooms():
    folders = {p.name for p in (ROOT / 'tests').iterdir() if p.is_dir() and p.name[0] not in '._'}
    assert folders <= {*ROOMS, 'benchmarks', 'fixtures'}
    names = Counter(p.name for p in (ROOT / 'tests').rglob('test_*.py'))
    assert [name for name, count in names.items() if count > 1] == []


# Doors


def test_no_room_or_file_bears_the_name_of_what_a_door_offers():
    for path in PACKAGE.rglob('*'):
        if path.suffix != '.py' and not (path / '__init__.py').exists() or path.name.startswith('_'):
            continue
        here = path.relative_to(PACKAGE).parts[0]
        assert path.stem not in FRONT and path.stem not in DOORS.get(here, {}), path


@pytest.mark.parametrize('name', [None, *DOORS])
def test_doors_offer_what_is_there(name):
    stub = PACKAGE / (name or '') / '__init__.pyi'
    module = importlib.import_module(f'difflow.{name}' if name else 'difflow')
    there = {f'{name}.{file}' if name else file: n for n, file in offered(stub).items()}
    assert set(module.__all__) == set(offered(stub)) and set(module.__all__) <= set(dir(module))
    for file in there:
        assert file in PUBLIC, f'{stub} names {file}'
    for n, file in offered(stub).items():
        assert n in PUBLIC[f'{name}.{file}' if name else file], f'{file} does not define {n}'
        assert getattr(module, n) is getattr(
            importlib.import_module(f'difflow.{f"{name}.{file}" if name else file}'), n
        )
    with pytest.raises(AttributeError):
        getattr(module, 'no_such_' + 'name')


def test_front_door_is_part_of_the_rooms_doors():
    assert 55 <= len(FRONT) <= 80
    for name, file in FRONT.items():
        if '.' in file:
            assert name in DOORS[room(file)], f'{name} is not offered by the door of {room(file)}'


def test_front_door_is_light(python):
    code = """if True:
        import sys, time
        start = time.process_time()
        import difflow
        spent = time.process_time() - start
        print(spent, 'torch' in sys.modules, 'numpy' in sys.modules, len(dir(difflow)))
        from difflow import even_levels, sweep
        print(callable(sweep), difflow.even_levels is even_levels, callable(difflow.sweep))"""
    first, second = python(code).splitlines()
    seconds, *loaded, names = first.split()
    assert float(seconds) < 0.02 and loaded == ['False', 'False'] and int(names) == len(FRONT)
    assert second == 'True True True'


def test_front_door_is_typed(tmp_path, run):
    "A type checker knows every name, and what calls of some of them return"
    lines = ['import difflow as df', *(f'df.{name}' for name in FRONT), 'reveal_type(df.even_levels(50, 13))']
    lines += [
        'reveal_type(df.load_denoiser("mnist"))',
        'reveal_type(df.Scheduler.linear(1000))',
        'df.no_such_name',
    ]
    (tmp_path / 'use.py').write_text('\n'.join(lines))
    done = run(
        *(
            sys.executable,
            '-m',
            'mypy',
            '--follow-imports=silent',
            '--ignore-missing-imports',
            '--no-incremental',
        ),
        *('--cache-dir', tmp_path / 'cache', 'use.py'),
        cwd=tmp_path,
        timeout=600,
        env={'MYPYPATH': str(ROOT)},
    )
    said = done.stdout.splitlines()
    notes = [line for line in said if 'Revealed type' in line]
    assert [re.search(r'"(.*)"', n)[1].replace('builtins.', '') for n in notes] == [
        'list[int]',
        'difflow.denoisers.base.Denoiser',
        'difflow.schedulers.scheduler.Scheduler',
    ], done.stdout + done.stderr
    errors = [line for line in said if 'error:' in line]
    assert len(errors) == 1 and 'no_such_name' in errors[0], done.stdout


# Public names


def used_elsewhere(module, name):
    return any(
        name in names and used == module
        for path in MODULES
        if room(dotted(path)) != room(module)
        for used, names in sources(path)
    )


def test_public_means_that_somebody_calls_it():
    alone = []
    for module, names in PUBLIC.items():
        door = DOORS.get(room(module))
        if door is None:  # a room of one file is its own door
            continue
        alone += [f'{module}.{n}' for n in names if n not in door and not used_elsewhere(module, n)]
    assert alone == []
    assert sum(map(len, PUBLIC.values())) <= LIMIT_OF_PUBLIC_NAMES


def test_no_name_has_two_meanings():
    found = Counter(n for names in PUBLIC.values() for n in names)
    assert [n for n, count in found.items() if count > 1] == []


def public_objects(module):
    "Yield (name, function or class) of what `module` defines for others, with the methods of its classes"
    loaded = importlib.import_module(f'difflow.{module}')
    for name in PUBLIC[module]:
        thing = getattr(loaded, name)
        if not inspect.isfunction(thing) and not inspect.isclass(thing):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for n, method in vars(thing).items():
                method = getattr(method, '__func__', getattr(method, 'fget', method))
                if not n.startswith('_') and inspect.isfunction(method):
                    yield f'{name}.{n}', method


AVOIDED = 'Say Says Tell Tells Hold Holds Give Gives Let Lets Be Know Knows'.split()


@pytest.mark.parametrize('module', PUBLIC)
def test_public_names_are_documented_and_typed(module):
    for name, thing in public_objects(module):
        typing.get_type_hints(thing)
        if '.' not in name and typing.get_origin(thing) is None:  # an alias has a comment beside it
            assert inspect.getdoc(thing), f'{name} has no docstring'


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_docstrings_say_what_is_returned(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
            assert text.split()[0].rstrip(',:') not in AVOIDED, f'{node.name}: {text}'


# One idea in one place


def test_commands_take_the_default_numbers_of_steps():
    "The commands cannot load the constants before their help is printed, so they repeat them"
    from difflow.cli import root
    from difflow.samplers.walks import INTERACTIVE_STEPS, PUBLISHED_STEPS, SAMPLING_STEPS

    root._load_commands()
    defaults = {c.name: inspect.signature(c.callback).parameters for c in root.app.registered_commands}
    for name, option, steps in [
        ('sample', 'steps', SAMPLING_STEPS),
        ('generate', 'steps', SAMPLING_STEPS),
        ('jacobian', 'steps', SAMPLING_STEPS),
        ('sweep', 'steps', INTERACTIVE_STEPS),
        ('forward-backward', 'timestep_respacing', str(PUBLISHED_STEPS)),
    ]:
        assert defaults[name][option].default == steps, name


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_streams_of_noise_have_names(path):
    for node in ast.walk(tree(path)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ('normal', 'uniform')
        ):
            literal = [k for k in node.keywords if k.arg == 'stream' and isinstance(k.value, ast.Constant)]
            assert not literal and not any(isinstance(a, ast.Constant) for a in node.args[3:4]), ast.unparse(
                node
            )


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_files_are_written_in_one_way(path):
    "`atomic` alone renames a file into its place, but for downloads, which go on where they stopped"
    if dotted(path) not in ('files', 'checkpoints.downloads'):
        assert 'os.replace' not in path.read_text() and '.rename(' not in path.read_text()


# Words and links

LEFT = 'Crowd Bound Front Books Experiment NoiseOf Dice RowDice AskedExplorer Question'.split()
LEFT += 'Found Made Cut Known Course'.split()
LEFT += 'wavefront allow_list told even like wide few say either both film look _word'.split()


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_words_that_were_left(path):
    "Neither a symbol nor an argument nor an attribute bears a word that the house has given up"
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name.lstrip('_'))
        if isinstance(node, ast.arg):
            found.add(node.arg)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr.lstrip('_'))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    assert found & set(LEFT) == set()


def targets(text):
    return [
        t for t in re.findall(r'\]\(([^)\s]+)\)', text) if re.search(r'\.(ipynb|md|png|py|txt|yaml)(#|$)', t)
    ]


@pytest.mark.parametrize(
    'path',
    [*CHAPTERS, *ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path):
    path = path.resolve()
    texts = (
        [source(c) for c in cells(path) if c['cell_type'] == 'markdown']
        if path.suffix == '.ipynb'
        else [path.read_text()]
    )
    for target in targets('\n'.join(texts)):
        if '://' not in target:
            assert (path.parent / target.split('#')[0]).exists(), target
