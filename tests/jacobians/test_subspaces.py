"""Angles between subspaces, and how the subspaces of samples are found."""

import math

import pytest
import torch

from difflow import MoLRG, normal
from difflow.jacobians import (
    cluster_subspaces,
    principal_angles,
    principal_subspace,
    subspace_error,
)
from difflow.jacobians.subspaces import _assign


def rows(mixture, n, seed=0):
    return mixture.sample(n, seed)[0].flatten(1).double()


def test_principal_angles_of_known_rotations():
    e = torch.eye(6).double()
    for angle in (0.0, 1e-9, 1e-4, 0.3, 1.2, math.pi / 2):
        turned = torch.stack([e[0], math.cos(angle) * e[1] + math.sin(angle) * e[4]], 1)
        assert principal_angles(e[:, :2], turned)[1].item() == pytest.approx(angle, abs=1e-12)
        both = torch.stack([math.cos(angle) * e[0] + math.sin(angle) * e[3], turned[:, 1]], 1)
        assert principal_angles(e[:, :2], both).tolist() == pytest.approx([angle] * 2, abs=1e-7)


def test_subspace_error_does_not_see_bases_or_order():
    bases = MoLRG(3, 20, 4, seed=0).bases
    turn = torch.linalg.qr(normal((3, 4, 4), 1).double()).Q
    assert subspace_error((bases @ turn)[[2, 0, 1]], bases) < 1e-7
    assert subspace_error(bases[[0, 0, 0]], bases) == pytest.approx(math.sqrt(2 / 3))


def test_principal_subspace_is_the_leading_eigenspace():
    x = normal((200, 10), seeds=0).double() * torch.linspace(3, 0.1, 10)
    found = principal_subspace(x, 4)
    true = torch.linalg.eigh(x.T @ x).eigenvectors[:, -4:]
    assert principal_angles(found, true).max() < 1e-7
    short = principal_subspace(x[:2], 4)
    torch.testing.assert_close(short.T @ short, torch.eye(4).double(), atol=1e-10, rtol=0)
    assert (x[:2] - x[:2] @ short @ short.T).abs().max() < 1e-9


@pytest.mark.parametrize('n_classes', [2, 3])
def test_clusters_are_found(n_classes):
    mixture = MoLRG(n_classes, 24, 3, seed=1)
    x, classes = mixture.sample(40 * n_classes)
    bases, found, left = cluster_subspaces(x, n_classes, 3)
    assert left < 1e-9 and subspace_error(bases, mixture.bases) < 1e-5
    pairs = set(zip(found.tolist(), classes.tolist()))
    assert len(pairs) == n_classes  # the same partition under other names


def test_clustering_never_gets_worse():
    x = normal((60, 8), seeds=0)
    left = [cluster_subspaces(x, 3, 2, restarts=1, iterations=i)[2] for i in range(1, 8)]
    assert all(a >= b - 1e-12 for a, b in zip(left, left[1:]))


def test_at_the_threshold_every_grouping_fits():
    "With d samples a class, two groups of d fit perfectly and are still wrong: the data do not say which"
    mixture = MoLRG(2, 24, 3, seed=0)
    x = rows(mixture, 6)
    wrong = torch.stack([principal_subspace(x[i], 3) for i in ([0, 1, 3], [2, 4, 5])])
    assert _assign(x, wrong)[1].max() < 1e-10 and subspace_error(wrong, mixture.bases) > 0.3


@pytest.mark.parametrize('d', [2, 3])
def test_one_sample_more_than_dimensions_makes_the_grouping_unique(d):
    "Every one of the groupings in two, by enumeration: the share of energy that each leaves over"
    mixture = MoLRG(2, 12, d, seed=0)
    for n in (d, d + 1):
        x, classes = mixture.sample(2 * n, seed=1)
        x, perfect = x.flatten(1).double(), []
        for number in range(2 ** (2 * n - 1)):  # the first sample lies in group 0
            group = torch.tensor([number >> i & 1 for i in range(2 * n)])[torch.arange(2 * n).flip(0)]
            parts = [x[group == k] for k in range(2)]
            left = sum(torch.linalg.svdvals(part)[d:].square().sum() for part in parts if len(part) > d)
            if left < 1e-10 * x.square().sum():
                perfect.append(group)
        right = [group for group in perfect if torch.equal(group, classes)]
        assert len(right) == 1 and (len(perfect) == 1) == (n > d)


@pytest.mark.parametrize('n', [5, 6, 12])
def test_nothing_left_over_is_the_answer(n):
    "At and above d + 1 samples a class a search that fits perfectly is right, and enough starts find it"
    for r in range(4):
        mixture = MoLRG(2, 48, 4, seed=r)
        found, _, left = cluster_subspaces(mixture.sample(2 * n, r)[0], 2, 4, restarts=300)
        assert left < 1e-10 and subspace_error(found, mixture.bases) < 1e-5
