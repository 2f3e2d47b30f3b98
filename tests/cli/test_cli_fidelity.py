"""`difflow fid`: what is compared, what is chosen, and what is missing."""

import numpy as np
import pytest
from option_changes import call

from difflow.cli.fidelity import _frechet, _random_part
from difflow.data import ImageSet


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with the statistics of the embedded digits"
    folder = tmp_path_factory.mktemp('fid')
    assert call('fid ref --data mnist5k --dest refs/digits.npz --features mnist5k', folder)[0] == 0
    return folder


def test_a_set_is_at_distance_0_of_itself(folder):
    code, printed = call(
        'fid calc --images mnist5k --ref refs/digits.npz --num 5000 --features mnist5k', folder
    )
    assert code == 0 and abs(float(printed.splitlines()[-1])) < 1e-6
    code, printed = call(
        'fid calc --images mnist5k --ref refs/digits.npz --num 500 --seed 3 --features mnist5k', folder
    )
    assert code == 0 and float(printed.splitlines()[-1]) > 0.01


def test_distance_of_singular_gaussians():
    "Of points on a line the root has rank 1: squared differences of the deviations, and of the means"
    one, other = np.zeros((3, 3)), np.zeros((3, 3))
    one[0, 0], other[0, 0] = 4.0, 9.0
    assert _frechet(np.zeros(3), one, np.array([0, 2, 0]), other) == pytest.approx(1 + 4)


def test_the_part_is_that_of_the_published_data_set():
    images = ImageSet.of(np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8))
    order = np.arange(20)
    np.random.RandomState(7).shuffle(order)
    found = _random_part(images, 6, 7).images[:, 0, 0, 0].tolist()
    assert found == sorted(order[:6].tolist()) and len(_random_part(images, 20, 1)) == 20


@pytest.mark.parametrize(
    'line, words',
    [
        ('calc --images mnist5k --ref refs/digits.npz --num 6000 --features mnist5k', '--num asks for 6000'),
        (
            'calc --images mnist5k --ref refs/digits.npz',
            'is of the features mnist5k, --features is inception',
        ),
        ('calc --images mnist5k --ref nothing.npz', 'nothing.npz'),
        ('ref --data digits --dest a.npz', 'need torch-fidelity (pip install torch-fidelity)'),
        ('ref --data digits --dest a.npz --features mnist6k', 'mnist6k'),
        ('ref --data digits --dest a.txt', 'must end in .npz'),
    ],
)
def test_refusals_are_one_line(line, words, folder, monkeypatch):
    monkeypatch.setattr('torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE', False)
    code, printed = call(f'fid {line}', folder)
    assert code == 2 and words in printed and printed.count('difflow: ') == 1, printed
    assert not list(folder.glob('a.*'))
