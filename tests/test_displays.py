"""Whatever the library returns as a result shows itself: text, rows, a picture, a file."""

import dataclasses
import importlib
import inspect
import json
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import difflow as df
from difflow import features, reproducibility, synthetic_data
from difflow.data.results import Result
from difflow.data.sets import ImageSet
from difflow.exact.mean_field import EpsilonProcess
from difflow.features.activations import _Moments
from difflow.jacobians.ranks import Rank
from difflow.jacobians.trajectories import RankCurve
from difflow.representations.estimators import InformationEstimate
from difflow.representations.information import InformationMatrix
from difflow.runs.folder import Report
from difflow.sweeps.layer_change import LayerChange
from difflow.synthetic_data.samples import _CopyScores
from test_house import PUBLIC, public_objects

PNG = b'\x89PNG\r\n\x1a\n'
SCALARS = (str, int, float, bool, type(None))
NO_RESULTS = dict(  # public dataclasses and named tuples that no study returns, and why
    Settings='how to train: an argument, kept as JSON in every state',
    SSCDSettings='how to train: an argument',
    ClassifierRecipe='how to train: an argument',
    Augmentation='a transformation: its numbers are all there is',
    SSCDAugmentation='a transformation: its numbers are all there is',
    Preprocess='a transformation: its numbers are all there is',
    Mixer='the base of the mixers, of which each is made here',
    State='a point of a walk, handed on at every step of a sampler; it must cost nothing',
    SampleRequest='what a command is asked for',
    Item='what goes into a run, by the thousand',
    Output='what comes out of a run, by the thousand',
    Broken='why one item of a run cannot be read; `Report` has the rows',
    Panel='a piece of a film strip',
    _NetworkFacts='four facts of a network, read by denoisers',
    _Contents='what stands in a file of weights, before it is known what it means',
    _Level='what a UNet is built of, level by level',
)
NO_PICTURE = {'Report'}  # counts of files


def sweep():
    return df.sweep(
        df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.25), torch.full((2, 1, 8, 8), 0.5), [0, 1, 4], 4
    )


def layer_change():
    rng = np.random.default_rng(0)
    cosines = rng.random((4, 3, 2, 5), np.float32)
    heads = {'digit': rng.random((5, 4), np.float32)}, {'digit': rng.random((3, 5, 4), np.float32)}
    names, sigmas = [f'{i}.png' for i in range(5)], np.array([0.0, 0.5, 2.0])
    return LayerChange(
        ['stem', 'head'], [0, 5, 9], names, *cosines, np.arange(5) - 1, *heads, sigmas, steps=10
    )


def activation_statistics():
    moments = {name: _Moments.of(df.normal((6, 3, 4, 4), seeds=i)) for i, name in enumerate(('stem', 'head'))}
    return features.ActivationStatistics(moments, 6, 5, run={'seed': 0})


def cas():
    answers = df.normal((2, 3, 2, 20, 4)).softmax(-1)
    return synthetic_data.CAS(
        ['real', 'synthetic', 'real + synthetic'], [9, 8, 17], ['epochs', 'steps'], torch.full((2, 3), 5),
        [0, 1], answers, torch.arange(20) % 4, 'accuracy', list('abcd'),
    )  # fmt: skip


def training():
    net = df.UNet(8, 1, 32, 1, 1, (), (1,))
    return df.train(df.EDMDenoiser(net), df.load_images('digits'), steps=2, batch_size=4, progress=False)


def sscd_training():
    model, images = df.SSCD('small', 4, widths=(8, 8, 8)), df.load_images('mnist5k', max_images=8)
    return features.train_sscd(model, images, steps=2, batch_size=4, progress=False)


def fitted(name):
    codes, labels = df.normal((40, 3, 4)), torch.arange(80).reshape(40, 2) % 3
    return lambda: getattr(df, name)(hidden=8, seeds=2, epochs=1).fit(codes, labels)


def score(name='M score'):
    return reproducibility.score(name, torch.tensor([0.1, 0.7, 0.9]), 0.6, torch.tensor([5, 0, 2]))


def ranks(*shape):
    rank = torch.arange(1, 1 + int(np.prod(shape))).reshape(shape)
    return rank, rank - 1, rank + 1, rank < 3


def spectrum():
    return df.jacobian_spectrum(df.GaussianDenoiser(torch.zeros(1, 4, 4), 0.25), torch.zeros(2, 1, 4, 4), 1.0)


def covariance():
    return df.posterior_covariance(
        df.GaussianDenoiser(torch.zeros(1, 4, 4), 0.25), torch.zeros(2, 1, 4, 4), 1.0
    )


def rank_curve():
    return RankCurve(torch.tensor([9.0, 1.0]), *ranks(2, 3), dim=64, products=torch.tensor([4, 6]))


def features_of_three():
    unit = nn.functional.normalize(df.normal((3, 4)))
    return features.Features(unit, list('abc'), torch.arange(3), 'f' * 64, {'resize': 'none'})


def beliefs():
    tree = df.RandomHierarchy(3, 2, 2, 2)
    return tree.beliefs(tree.encode(tree.sample(2)[0]), 1.0)


def posterior():
    images = df.normal((5, 1, 4, 4)).clamp(-1, 1)
    return df.OptimalDenoiser(images).examine(images[:2], 1.0, k=3)


def gaussian_structure():
    images = df.normal((5, 1, 4, 4)).clamp(-1, 1)
    return df.gaussian_structure(df.OptimalDenoiser(images), images, 3, steps=4, progress=False)


def transition():
    kept = np.random.default_rng(0).random((9, 30)) < np.linspace(1, 0, 9)[:, None]
    return df.fit_transition(np.linspace(0, 1, 9), kept, 0.1, bootstrap=20)


MADE = dict(
    Sweep=sweep,
    LayerChange=layer_change,
    ActivationStatistics=activation_statistics,
    CAS=cas,
    Training=training,
    SSCDTraining=sscd_training,
    **{name: fitted(name) for name in 'SingleTime MeanMixer ConcatMixer GRUMixer TransformerMixer'.split()},
    Score=score,
    _CopyScores=lambda: _CopyScores(score(), score()),
    Rank=lambda: Rank(*ranks(4), 16, 2),
    _Likelihood=lambda: df.log_likelihood(
        df.GaussianDenoiser(torch.zeros(1, 4, 4), 0.25), torch.zeros(2, 1, 4, 4), steps=2, probes=2
    ),
    Spectrum=spectrum,
    RankCurve=rank_curve,
    _Covariance=covariance,
    Features=features_of_three,
    Transition=transition,
    _Susceptibility=lambda: df.susceptibility(np.random.default_rng(0).random((3, 20, 4)), np.arange(4)),
    InformationEstimate=lambda: InformationEstimate(0.5, 0.125),
    InformationMatrix=lambda: InformationMatrix(np.eye(3) + 0.5, np.full((3, 3), 0.01)),
    EpsilonProcess=lambda: EpsilonProcess(8, 4, 2),
    _Agreement=lambda: df.denoiser_agreement(
        df.GaussianDenoiser(torch.zeros(1, 4, 4), 0.25),
        df.GaussianDenoiser(torch.zeros(1, 4, 4), 0.5),
        df.normal((3, 1, 4, 4)),
        [0.5, 1.0, 2.0],
    ),
    _Beliefs=beliefs,
    _FlowDistance=lambda: df.flow_distance(df.normal((8, 3)), df.normal((8, 3), 1)),
    _GaussianStructure=gaussian_structure,
    _Posterior=lambda: df.OptimalDenoiser(df.normal((5, 1, 4, 4)).clamp(-1, 1)).examine(
        torch.zeros(2, 1, 4, 4), 1.0, k=3
    ),
    Scheduler=lambda: df.Scheduler.cosine(40).respace('10'),
    ImageSet=lambda: df.load_images('digits', max_images=24),
    Report=lambda: Report(Path('runs'), 3, 1, True, True, {'a.png': 'truncated'}),
)


def classes():
    "Yield (name, class) of every public class of the library"
    for module, names in PUBLIC.items():
        if not module.startswith('cli.'):
            loaded = importlib.import_module(f'difflow.{module}')
            yield from ((n, getattr(loaded, n)) for n in names if inspect.isclass(getattr(loaded, n)))


def returned(hint):
    "Yield the classes of ours in the annotation of what is returned"
    if inspect.isclass(hint) and hint.__module__.startswith('difflow.'):
        yield hint.__name__, hint
    for part in typing.get_args(hint):
        yield from returned(part)


def returned_classes():
    "Yield (name, class) of what public functions and methods return, private classes among them"
    for module in PUBLIC:
        if not module.startswith(('cli.', 'widgets.')):
            for _, thing in public_objects(module):
                if inspect.isfunction(thing):
                    yield from returned(typing.get_type_hints(thing).get('return'))


def is_result(cls):
    named = issubclass(cls, tuple) and hasattr(cls, '_fields')
    return dataclasses.is_dataclass(cls) or named or issubclass(cls, (Result, ImageSet))


@pytest.fixture(scope='module')
def results():
    torch.manual_seed(0)
    return {name: make() for name, make in MADE.items()}


@pytest.fixture(params=MADE)
def result(request, results):
    return results[request.param]


def test_every_result_is_made_here():
    "A new dataclass or named tuple is a result with all of this, or is listed with the reason why not."
    found = {name for name, cls in [*classes(), *returned_classes()] if is_result(cls) and cls is not Result}
    assert found == set(MADE) | set(NO_RESULTS) and not set(MADE) & set(NO_RESULTS)


def test_the_text_is_short(result):
    text = repr(result)
    assert text.startswith(type(result).__name__.lstrip('_'))
    assert all(len(line) <= 110 for line in text.split('\n')) and text.count('\n') <= 2
    assert 'tensor(' not in text and 'array(' not in text and ' at 0x' not in text


def test_rows_are_plain(result):
    rows = result.rows()
    assert rows and all(list(row) == list(rows[0]) for row in rows)
    assert {type(value) for row in rows for value in row.values()} <= set(SCALARS)
    assert json.loads(json.dumps(rows), parse_constant=float) is not None


@pytest.mark.parametrize('name', sorted(set(MADE) - NO_PICTURE))
def test_it_draws_itself_where_it_is_told_to(name, results):
    from matplotlib.figure import Figure

    result = results[name]
    ax = Figure().subplots()
    assert result.plot(ax) is ax
    assert ax.get_xlabel() or not len(ax.get_xticks())
    assert ax.get_ylabel() or not len(ax.get_yticks())
    curves = [label for label in ax.get_legend_handles_labels()[1] if not label.startswith('_')]
    assert len(curves) < 2 or ax.get_legend() is not None
    with pytest.raises(ValueError, match='ax must be axes of Matplotlib or None, got 7'):
        result.plot(7)


@pytest.mark.parametrize('name', sorted(set(MADE) - NO_PICTURE))
def test_new_axes_are_returned(name, results):
    import matplotlib.pyplot as plt

    axes = np.atleast_1d(results[name].plot())
    assert plt.get_fignums() and all(ax.figure.number in plt.get_fignums() for ax in axes)
    plt.close('all')


def test_the_picture_of_a_notebook_leaves_nothing_open(result):
    import matplotlib.pyplot as plt

    plt.close('all')
    picture = result._repr_png_()
    assert picture is None if type(result).__name__ in NO_PICTURE else picture.startswith(PNG)
    assert plt.get_fignums() == []


def same(a, b):
    "Whether two values are equal, whatever holds them"
    if isinstance(a, nn.Module):
        return type(a) is type(b) and same(dict(a.state_dict()), dict(b.state_dict()))
    if isinstance(a, ImageSet):
        known = lambda s: (s.rows(), s.classes)
        return torch.equal(a.images, b.images) and known(a) == known(b)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if dataclasses.is_dataclass(a) and not isinstance(a, df.Scheduler):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    return a == b or a != a and b != b


def test_what_is_saved_comes_back(result, tmp_path):
    path = result.save(tmp_path / 'result.npz')
    again = type(result).load(path)
    assert type(again) is type(result) and same(result, again)
    assert again.rows() == result.rows() and repr(again) == repr(result)
    with pytest.raises(ValueError, match='must end in .npz'):
        result.save(tmp_path / 'result.npy')


def test_a_file_of_another_class_is_refused_by_name(result, results, tmp_path):
    other = results['Score' if type(result).__name__ != 'Score' else 'Rank']
    path = other.save(tmp_path / 'other.npz')
    kind = type(other).__name__
    with pytest.raises(ValueError, match=f'other.npz holds a {kind}, not an? {type(result).__name__}'):
        type(result).load(path)


OPTIONAL = {  # arrays that a file may lack: fields that are None then
    'x0hat', 'done', 'noised_sigmas', 'sigmas', 'labels', 'steps', 'run', 'm2/stem', 'm2/head', 'indices',
    'synthetic/indices', 'real_test/indices', 'names', 'seeds', 'model', 'preprocess', 'classes', 'folder',
    'valid', 'train_accuracy', 'mean', 'basis',
}  # fmt: skip


def test_damaged_files_are_value_errors(result, tmp_path):
    "Without one of its arrays, or with a text or an axis too many in one, unless nothing is made of it"
    path, accepted = result.save(tmp_path / 'whole.npz'), []
    with np.load(path) as file:
        arrays = dict(file)
    others = dict(none=lambda a: {}, axis=lambda a: {name: a[None]}, text=lambda a: {name: np.array('text')})
    for name, array in arrays.items():
        for kind, change in others.items():
            np.savez(
                tmp_path / 'damaged.npz', **{k: v for k, v in arrays.items() if k != name}, **change(array)
            )
            try:
                loaded = type(result).load(tmp_path / 'damaged.npz')
            except ValueError as error:
                assert 'damaged.npz' in str(error)
                continue
            allowed = name in OPTIONAL if kind == 'none' else kind == 'text' and array.dtype.kind == 'U'
            if not allowed and not same(result, loaded):
                accepted.append((name, kind))
    assert accepted == []


DENOISERS = dict(
    EDMDenoiser=lambda: df.EDMDenoiser(df.UNet(8, 1, 32, 1, 1, (), (1,), num_classes=2)),
    VPDenoiser=lambda: df.VPDenoiser(df.UNet(8, 1, 32, 1, 1, (), (1,))),
    LatentDenoiser=lambda: df.LatentDenoiser(DENOISERS['VPDenoiser'](), (torch.neg, torch.neg)),
    GaussianDenoiser=lambda: df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.25),
    OptimalDenoiser=lambda: df.OptimalDenoiser(torch.zeros(2, 1, 8, 8), labels=torch.tensor([0, 1])),
    PatchDenoiser=lambda: df.PatchDenoiser(torch.zeros(2, 1, 8, 8), [(1.0, 3), (float('inf'), 5)]),
    LocalDenoiser=lambda: df.LocalDenoiser(df.normal((4, 1, 8, 8))),
    SmoothedDenoiser=lambda: df.SmoothedDenoiser(df.normal((4, 1, 8, 8))),
    WienerDenoiser=lambda: df.WienerDenoiser(df.normal((4, 1, 8, 8))),
    HierarchyDenoiser=lambda: df.RandomHierarchy(3, 2, 2, 2).denoiser,
    MoLRGDenoiser=lambda: df.MoLRG(2, 12, 2).denoiser,
)


@pytest.mark.parametrize('name', DENOISERS)
def test_a_denoiser_is_one_line_and_its_network_still_a_tree(name):
    denoiser = DENOISERS[name]()
    for text in (repr(denoiser), str(denoiser)):
        assert text.startswith(name) and '\n' not in text and len(text) <= 110
    rows = denoiser.rows()
    assert sum(row['parameters'] for row in rows) == sum(p.numel() for p in denoiser.parameters())
    assert {type(value) for row in rows for value in row.values()} <= set(SCALARS)
    if hasattr(denoiser, 'net'):
        assert str(denoiser.net) == nn.Module.__repr__(denoiser.net) and str(denoiser.net).count('\n') > 10
        assert f'{sum(p.numel() for p in denoiser.parameters()):,} parameters' in repr(denoiser)


def test_every_denoiser_has_a_short_text():
    "None goes back to the tree of its layers"
    kinds = [cls for _, cls in classes() if issubclass(cls, df.Denoiser)]
    assert len(kinds) > 10 and all(cls.__repr__ is not nn.Module.__repr__ for cls in kinds)


def test_what_is_special_is_said(results, tmp_path):
    "A walk that goes on, no fall, mixers that are not fitted, many points, and images of several shapes"
    still = dataclasses.replace(results['Sweep'], done=torch.tensor([True, False, False]))
    assert repr(still).endswith(', 2 on their way') and not still.rows()[-1]['returned']
    none = df.fit_transition([0.0, 0.5, 1.0], np.ones((3, 4)), 0.1)
    assert repr(none).startswith('Transition: none, more than') and none._repr_png_().startswith(PNG)
    assert json.loads(json.dumps(none.rows()))[0]['reason'] == none.reason
    assert repr(df.GRUMixer()).endswith('not fitted') and df.GRUMixer()._repr_png_() is None
    for call in (df.GRUMixer().rows, df.GRUMixer().plot, lambda: df.GRUMixer().save(tmp_path / 'a.npz')):
        with pytest.raises(ValueError, match='not fitted'):
            call()
    assert repr(Rank(*ranks(64), 99, 2)) == 'Rank: 64 points, 1..64 of 99, mean 32.5, 62 not found'
    with pytest.raises(ValueError, match='save its in_pixels'):
        dataclasses.replace(results['Sweep'], latents=print).save(tmp_path / 'a.npz')


def test_the_strip_names_its_rows(results):
    "What stands to the left of the images, and under them, takes room; fewer levels take less"
    strip, fewer = results['Sweep'].strip(), results['Sweep'].strip(levels=2)
    assert strip.width - fewer.width == 58 and strip.height == fewer.height
    margin = np.asarray(strip)[:, : strip.width - 3 * 58 - 2]
    assert margin.shape[1] > 90 and (margin[: len(margin) // 2] < 128).any()
    with pytest.raises(ValueError, match='levels must be an integer >= 1, got 0'):
        results['Sweep'].strip(levels=0)
