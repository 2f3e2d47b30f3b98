"""How the subspaces of a mixture of low-rank Gaussians are found."""

import math

import pytest
import torch

from difflow import MoLRG, normal, train
from difflow.jacobians import (
    LowRankDenoiser,
    cluster_subspaces,
    molrg_settings,
    principal_angles,
    principal_subspace,
    subspace_error,
    train_molrg,
)
from difflow.training import Settings


def rows(mixture, n, seed=0):
    return mixture.sample(n, seed)[0].flatten(1).double()


# Finding the subspaces


def test_training_is_pca():
    mixture = MoLRG(1, 8, 2, seed=0)
    x = mixture.sample(5, seed=1)[0]  # five: the empirical subspace is what is found
    trained = train(
        LowRankDenoiser(1, 2, mixture.image_shape, seed=4),
        x,
        steps=300,
        batch_size=64,
        lr=0.03,
        warmup=10,
        ema_halflife=500,
        progress=False,
    ).denoiser
    assert subspace_error(trained.bases, principal_subspace(x, 2)[None]) < 0.05


def test_low_rank_denoiser_with_the_right_bases_is_exact():
    mixture = MoLRG(2, 12, 3, seed=0)
    denoiser = LowRankDenoiser(2, 3, mixture.image_shape, bases=mixture.bases)
    x = normal((4, 3, 2, 2), seeds=0)
    torch.testing.assert_close(denoiser(x, 0.5).detach(), mixture.denoiser(x, 0.5), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='has no classes'):
        denoiser(x, 0.5, torch.zeros(4).long())
    labelled = LowRankDenoiser(2, 3, mixture.image_shape, bases=mixture.bases, conditional=True)
    labels = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(
        labelled(x, 0.5, labels).detach(), mixture.denoiser(x, 0.5, labels), atol=1e-5, rtol=0
    )


def test_published_network_trains_without_augmentation():
    result = train_molrg(MoLRG(2, 12, 2), 20, embed_channels=8, steps=3, batch_size=8, progress=False)
    assert result.denoiser.image_shape == (3, 2, 2) and len(result.losses) == 3
    assert not any('augment' in name for name, _ in result.denoiser.named_modules())


def test_published_recipe_is_the_default():
    "The published command: 6 million images in batches of 512, Adam as EDM's, no augmentation"
    settings = molrg_settings((3, 4, 4))
    assert settings.steps == math.ceil(6e6 / 512) and settings.batch_size == 512 and settings.augment == 0
    assert (settings.lr, settings.betas, settings.lr_rampup, settings.ema_halflife) == (
        1e-3,
        (0.9, 0.999),
        10e6,
        0.5e6,
    )
    assert settings.eps == pytest.approx(1e-8 / 48)  # the published loss is a sum over pixels, ours a mean
    assert (settings.warmup, settings.cooldown, settings.weight_decay, settings.grad_clip) == (
        0,
        0,
        0,
        math.inf,
    )
    ours = train_molrg(
        MoLRG(2, 12, 2), 20, embed_channels=8, steps=2, batch_size=8, lr=0.01, seed=3, progress=False
    ).settings
    assert ours == molrg_settings((3, 2, 2), steps=2, batch_size=8, lr=0.01, seed=3)
    own = Settings(steps=2, batch_size=4)
    assert train_molrg(MoLRG(2, 12, 2), 20, embed_channels=8, settings=own, progress=False).settings == own


def test_network_has_the_published_size():
    "54,415,491 parameters, less those that tell the network of nine augmentations: 9 * 128"

    class Stopped(Exception):
        pass

    def stop(denoiser, *args, **options):
        raise Stopped(sum(p.numel() for p in denoiser.parameters()))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr('difflow.jacobians.low_rank.train', stop)
        with pytest.raises(Stopped, match=str(54_415_491 - 9 * 128)):
            train_molrg(MoLRG())


# What is refused


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: train_molrg(MoLRG(), settings=Settings(steps=2), lr=1e-4), 'give settings or lr, not both'),
        (lambda: LowRankDenoiser(1, 13, (3, 2, 2)), 'class_dim must be an integer in 1..12, got 13'),
        (lambda: LowRankDenoiser(0, 3, (3, 2, 2)), 'n_classes must be an integer >= 1, got 0'),
        (lambda: principal_subspace(torch.ones(3, 4), 5), 'class_dim must be an integer in 1..4, got 5'),
        (lambda: cluster_subspaces(torch.ones(3, 4), 0, 2), 'n_classes must be an integer >= 1'),
        (lambda: principal_angles(torch.eye(4)[:, :2], torch.eye(4)[:, :3]), 'one shape'),
        (
            lambda: train_molrg(MoLRG(1, 8, 2, image_shape=(1, 2, 4))),
            'images must be square for a U-Net, got 2 x 4',
        ),
        (lambda: train_molrg(MoLRG(), 0), 'sample_per_class must be an integer >= 1, got 0'),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
