"""What `help` shows of everything behind the doors, and what a misspelt name or argument is answered."""

import importlib
import inspect
import pickle
import pydoc
import re
import sys
from pathlib import Path

import pytest
import torch

import difflow as df
from difflow.samplers import Sampler
from difflow.sweeps import sweep_states
from difflow.training import Settings

ROOT = Path(__file__).parents[1]
NAMES = sorted(df.__all__)
ROOMS = sorted(p.parent.name for p in (ROOT / 'difflow').glob('*/__init__.pyi'))
FOREIGN = {'set_state', 'notify_change'}  # methods of ipywidgets that explorers replace
ARGUMENT = re.compile(r'^(\*{0,2}\w+)(?: : (.*))?\n((?:    .*\n?)*)', re.M)


def section(doc, title):
    "Return the text of a section of a docstring in numpy's style"
    _, found, rest = f'\n{inspect.cleandoc(doc)}\n'.partition(f'\n{title}\n{"-" * len(title)}\n')
    return re.split(r'\n\n\w+\n-+\n', rest)[0] + '\n' if found else ''


def explained(doc):
    "Return {argument: (type, words)} of a docstring"
    found = ARGUMENT.findall(section(doc or '', 'Parameters'))
    return {name.lstrip('*'): (kind, words.strip()) for name, kind, words in found}


def is_ours(kind):
    return kind.__module__.split('.')[0] == 'difflow'


def callables(thing):
    "Yield (name, callable, is it bound) of a function, of a class and its public methods, or of an object"
    if inspect.isfunction(thing):
        yield thing.__name__, thing, False
        return
    kind = thing if inspect.isclass(thing) else type(thing)
    if inspect.isclass(thing):
        yield kind.__name__, kind, False
    for owner in filter(is_ours, kind.__mro__):
        for name, member in vars(owner).items():
            function = getattr(member, '__func__', member)
            if (
                (name[0] != '_' or name == '__call__')
                and inspect.isfunction(function)
                and name not in FOREIGN
            ):
                yield f'{owner.__name__}.{name}', function, not isinstance(member, staticmethod)


def arguments(function, bound):
    return [*inspect.signature(function).parameters.values()][bound:]


def gaussian():
    return df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.25)


# What help shows


@pytest.mark.parametrize('name', NAMES)
def test_every_argument_is_explained(name):
    thing, silent = getattr(df, name), []
    for called, function, bound in callables(thing):
        if function is df.Denoiser:  # torch's `*args, **kwargs`
            continue
        words = explained(function.__doc__)
        silent += [
            f'{called}({p.name})' for p in arguments(function, bound) if not words.get(p.name, ('', ''))[1]
        ]
    assert silent == []


NUMBER = re.compile(r'\d|[<>]|\bany\b|like `|as `|as in|see `')
TENSOR = re.compile(r'\(|like|as `')
CHOICE = re.compile(r"'|`|names?\b|\bfile\b|path")


def without_range(kind, words):
    "Return whether a number has no range, a tensor no shape, and a word no choices"
    kind = re.sub(r'(Callable|Mapping|dict|Iterator)\[.*\]', '', kind.split(', default')[0])
    types = set(re.findall(r'\w+', kind))
    if types & {'int', 'float'} and not NUMBER.search(words):
        return True
    if (
        'Tensor' in types
        and not types & {'int', 'float', 'Sequence', 'ImageSet'}
        and not TENSOR.search(words)
    ):
        return True
    return types <= {'str', 'None'} and 'str' in types and not CHOICE.search(words)


@pytest.mark.parametrize('name', NAMES)
def test_numbers_have_ranges_tensors_shapes_and_words_choices(name):
    vague = []
    for called, function, _ in callables(getattr(df, name)):
        for argument, (kind, words) in explained(function.__doc__).items():
            if argument not in ('options', 'arguments') and without_range(kind, words):
                vague.append(f'{called}({argument}:{kind}): {words}')
    assert vague == []


def test_help_is_one_source_with_the_comments_in_the_file():
    words = explained(df.sample.__doc__)
    source = inspect.getsource(df.sample)
    for name, (_, text) in words.items():
        assert re.search(rf'\b{name}:.*# {re.escape(text)}\n', source), name
    assert words['steps'][0] == 'int, default 18'
    returned = section(df.sample.__doc__, 'Returns')
    assert returned.startswith('Tensor\n') and '(B, *pixel_shape) float32' in returned
    assert section(df.Scheduler.karras.__doc__, 'Returns').startswith('Scheduler\n')


@pytest.mark.parametrize('place', ['difflow.sample', 'difflow.samplers.sample', 'difflow.Sweep.strip'])
def test_pydoc_shows_arguments(place):
    text = pydoc.render_doc(place, renderer=pydoc.plaintext)
    assert 'Parameters' in text and re.search(r'seeds : |image : ', text)


def test_help_of_a_class_of_a_field_and_of_an_object():
    assert explained(df.UNet.__doc__)['image_size'][1].startswith('side of the images in pixels')
    assert explained(df.Sweep.__doc__)['sigmas'][1].startswith('(S,) float64')  # fields of a dataclass
    assert 'seeds : ' in pydoc.render_doc(df.heun, renderer=pydoc.plaintext)
    assert explained(df.Scheduler.ve.__doc__)['sigma_max'][1] == '> sigma_min'  # of the function it names
    assert explained(df.VPDenoiser.weight.__doc__)['sigma'][1]  # of the method above


@pytest.mark.parametrize('room', ROOMS)
def test_rooms_explain_what_they_offer(room):
    door = importlib.import_module(f'difflow.{room}')
    for name in door.__all__:
        thing = getattr(door, name)
        if inspect.isfunction(thing) and inspect.signature(thing).parameters:
            assert explained(thing.__doc__).keys() == {*inspect.signature(thing).parameters}, name


def test_documented_twice_is_documented_once(python):
    code = """if True:
        import difflow, difflow.samplers as samplers, difflow.sweeps as sweeps
        for thing in difflow.sample, samplers.sample, difflow.Sweep, sweeps.Sweep, difflow.Sweep.strip:
            print(thing.__doc__.count('Parameters'))
        print(difflow.sample is samplers.sample)"""
    assert python(code).split() == ['1'] * 5 + ['True']


def test_eager_import_is_documented_too(python):
    code = 'import difflow.statistics as room; print(vars(room)["per_image"].__doc__.count("Parameters"))'
    assert python(code, env={'EAGER_IMPORT': '1'}).split() == ['1']


def test_names_stay_what_they_are():
    for name in NAMES:
        thing = getattr(df, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert pickle.loads(pickle.dumps(thing)) is thing, name
            assert getattr(sys.modules[thing.__module__], name) is thing, name
        if inspect.isfunction(thing):
            assert f'def {name}(' in inspect.getsource(thing)


# Arguments spelt out


def defaults(function):
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


def test_sweeps_spell_their_arguments_alike():
    whole, one, states = map(defaults, (df.sweep, df.forward_backward, sweep_states))
    for name in 'seeds labels convention scheduler independent batch_size guidance clip noise'.split():
        assert whole[name] == one[name] == states[name]
    for name in 'steps', 'sampler':
        assert whole[name] is one[name] is states[name]


def test_arguments_that_are_handed_on_are_in_the_signature():
    import dataclasses

    assert {f.name for f in dataclasses.fields(Settings)} <= defaults(df.train).keys()
    assert defaults(df.train)['lr'] == Settings().lr and 'fields' not in defaults(df.train)
    assert {'lr', 'augmentation', 'classifier'} <= defaults(df.classification_accuracy_score).keys()
    assert {'k', 'parts', 'hidden', 'window'} <= defaults(df.mutual_information).keys()
    assert {'resize', 'threshold', 'hash'} <= defaults(df.SSCD.load).keys()
    assert {'seeds', 'labels', 'guidance'} <= defaults(df.sample).keys()


TABS = {
    'sample(': 'seeds labels guidance steps sampler',
    'sweep(None, ': 'seeds labels guidance convention',
    'forward_backward(None, ': 'seeds labels guidance batch_size',
    'train(': 'lr steps batch_size ema_halflife',
    'classification_accuracy_score(': 'lr augmentation',
    'SSCD.load(': 'resize hash',
}


@pytest.mark.parametrize('jedi', [False, True])
def test_tab_shows_arguments(jedi):
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns['df'], shell.Completer.use_jedi = df, jedi
    for text, wanted in TABS.items():
        line = f'df.{text}'
        with provisionalcompleter():
            offered = {c.text for c in shell.Completer.completions(line, len(line))}
        assert {f'{name}=' for name in wanted.split()} <= offered, text


# Did you mean ...?

X = torch.zeros(1, 1, 8, 8)
MISSPELT = {  # a call with one wrong word, and what was meant
    'sample': (lambda: df.sample(gaussian(), 4, seed=3), 'seeds'),
    'sample option': (lambda: df.sample(gaussian(), 4, S_chrun=3), 'S_churn'),
    'sampler': (lambda: df.heun(gaussian(), X, [1.0, 0.0], seed=3), 'seeds'),
    'sweep': (lambda: df.sweep(gaussian(), X, label=1), 'labels'),
    'sweep_states': (lambda: sweep_states(gaussian(), X, guidence=1), 'guidance'),
    'forward_backward': (lambda: df.forward_backward(gaussian(), X, 3, seed=1), 'seeds'),
    'train': (lambda: df.train(gaussian(), X, stpes=3), 'steps'),
    'load_denoiser': (lambda: df.load_denoiser('mnist', predicton='eps'), 'prediction'),
    'load_denoiser option': (lambda: df.load_denoiser('mnist', image_sise=3), 'image_size'),
    'load_images': (lambda: df.load_images('digits', max_image=3), 'max_images'),
    'load_images option': (lambda: df.load_images('digits', downlaod=True), 'download'),
    'wrap': (lambda: df.wrap(lambda x, t: x, predictions='x0'), 'prediction'),
    'labelled_samples': (lambda: df.labelled_samples(gaussian(), guidence=2), 'guidance'),
    'mutual_information': (lambda: df.mutual_information(X, estimater='ksg'), 'estimator'),
    'score': (lambda: df.classification_accuracy_score(X, X, X, momentun=1), 'momentum'),
    'class': (lambda: df.UNet(image_sze=8), 'image_size'),
    'subclass': (lambda: df.DDPMDenoiser(None, schedule=None), 'scheduler'),
    'dataclass': (lambda: df.MeanMixer(epoch=3), 'epochs'),
    'constructor': (lambda: df.Scheduler.karras(sigma_mni=1), 'sigma_min'),
    'SSCD': (lambda: df.SSCD('small', backbon=3), 'backbone'),
    'explorer': (lambda: df.SweepExplorer(gaussian(), X, step=3), 'steps'),
}


@pytest.mark.parametrize('call', MISSPELT)
def test_misspelt_argument_asks_what_was_meant(call):
    wrong, meant = MISSPELT[call]
    with pytest.raises(TypeError, match=f"unexpected keyword argument '.*': did you mean '{meant}'"):
        wrong()


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'Denoiser'])  # torch's arguments
def test_every_name_asks_for_its_first_argument(name):
    "A letter too many in the first argument that may be named is noticed before anything is done"
    thing = getattr(df, name)
    function = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing).__call__
    first = arguments(function, function is not thing)[0].name
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{first}x': did you mean '{first}'"):
        thing(**{f'{first}x': None})


def test_what_is_right_or_only_the_file_knows_goes_through():
    options = Sampler.option_names()
    assert {'eta', 'S_churn', 'S_noise'} <= options
    with pytest.raises(ValueError, match='ddpm has no option'):  # a right word, another sampler's
        df.sample(gaussian(), 1, 'ddpm', 2, eta=0.5)
    with pytest.raises(ValueError, match="unknown argument 'banana', expected one of"):
        df.load_denoiser('mnist', banana=1)


@pytest.mark.parametrize('name', NAMES)
def test_misspelt_name_asks_what_was_meant(name):
    wrong = f'{name[:-1]}_{name[-1]}'
    with pytest.raises(AttributeError, match=f"has no attribute '{wrong}': did you mean '{name}'"):
        getattr(df, wrong)


def test_traceback_asks_once(run):
    done = run(sys.executable, '-c', 'import difflow; difflow.load_denoisr', cwd=ROOT)
    assert done.stderr.lower().count('did you mean') == 1


def test_rooms_ask_too_and_name_what_must_be_imported(python):
    import difflow.samplers

    with pytest.raises(AttributeError, match="module 'difflow.samplers' has .*: did you mean 'sample'"):
        _ = difflow.samplers.smaple
    code = """if True:
        import difflow
        try: difflow.reproducibility
        except AttributeError as error: print(error)"""
    assert python(code).strip().endswith('before `import difflow.reproducibility`')
    assert not hasattr(df, '__wrapped__') and not hasattr(df, 'zzz')
