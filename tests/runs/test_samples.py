"""Labelled sets of samples: exact numbers, full batches, and folders that are read back."""

import numpy as np
import pytest
import torch

from difflow import GaussianDenoiser, load_images
from difflow.runs import SampleRequest, read_images, sample_folder, wanted_images, write_npz


def test_wanted_images():
    wanted = wanted_images(7, 100, seed=3)
    assert len({w.seed for w in wanted}) == 100 and np.bincount([w.label for w in wanted]).tolist() == [
        15,
        15,
        *[14] * 5,
    ]
    counts = {2: 4, 6: 1, 0: 0}
    chosen = wanted_images(7, counts=counts, seed=3)
    assert {c: sum(w.label == c for w in chosen) for c in counts} == counts and set(chosen) <= set(wanted)
    assert (
        wanted_images(None, 2, seed=9) == [SampleRequest(9, None), SampleRequest(10, None)]
        and SampleRequest(9, None).file == '000009.png'
    )
    assert wanted_images(7, 2, label=5) == [SampleRequest(0, 5), SampleRequest(1, 5)]
    for arguments, message in (
        (dict(n=0), '>= 1'),
        (dict(), 'give a number'),
        (dict(counts={1: -1}), '>= 0'),
        (dict(counts={7: 1}), '0..6'),
        (dict(counts={1: 1}, label=2), 'for each class'),
    ):
        with pytest.raises(ValueError, match=message):
            wanted_images(7, **arguments)


def test_batches_are_full_whatever_the_counts(tmp_path):
    calls = []

    class Labelled(GaussianDenoiser):
        num_classes = 5

        def denoise(self, x, sigma, labels):
            calls.append(labels.tolist())
            return super().denoise(x, sigma, None)

    for counts in ({label: 4 for label in range(5)}, {0: 19, 3: 1}):
        calls.clear()
        wanted = wanted_images(5, counts=counts)
        sample_folder(
            Labelled(torch.zeros(1, 4, 4), 0.25),
            tmp_path / str(len(counts)),
            wanted,
            'euler',
            steps=2,
            batch_size=8,
        )
        assert [len(labels) for labels in calls] == [8, 8, 8, 8, 4, 4]
        assert sum(calls[::2], []) == [w.label for w in wanted]


class Grey(GaussianDenoiser):
    "Know exactly that images of class c of 12 are around the grey level 20 c"

    num_classes = 12

    def __init__(self):
        super().__init__(torch.zeros(1, 4, 4), 1e-4)

    def denoise(self, x, sigma, labels):
        mean = (20 * labels / 127.5 - 1)[:, None, None, None]
        return mean + super().denoise(x - mean, sigma, None)


@pytest.mark.parametrize('counts', [{c: 2 for c in range(12)}, {3: 2, 7: 1, 11: 3}])
def test_a_folder_is_read_back_with_its_labels(tmp_path, counts):
    wanted = wanted_images(12, counts=counts)
    sample_folder(Grey(), tmp_path / 'made', wanted, 'euler', steps=8)
    found = load_images(tmp_path / 'made')
    assert (found.images.float().mean((1, 2, 3)) / 20).round().long().tolist() == found.labels.tolist()
    assert found.labels.bincount(minlength=12).tolist() == [counts.get(c, 0) for c in range(12)]
    packed = load_images(write_npz(tmp_path / 'made', wanted, tmp_path / 'made.npz'))
    assert packed.classes == found.classes == [str(c) for c in range(12)]
    (tmp_path / 'made/manifest.jsonl').unlink()  # a run that was stopped
    assert load_images(tmp_path / 'made').labels.tolist() == found.labels.tolist()


def test_other_samplers_and_models_do_not_mix(tmp_path):
    wanted, plain = wanted_images(None, 3), GaussianDenoiser(torch.zeros(1, 4, 4), 0.25)
    report = sample_folder(plain, tmp_path, wanted, 'euler', steps=2)
    assert report.made == 3 and sample_folder(plain, tmp_path, wanted, 'euler', steps=2).kept == 3
    assert read_images(tmp_path, wanted).shape == (3, 4, 4, 1)
    for denoiser, sampler, steps in (
        (plain, 'ddim', 2),
        (plain, 'euler', 3),
        (GaussianDenoiser(torch.zeros(1, 4, 4), 0.5), 'euler', 2),
    ):
        with pytest.raises(ValueError, match='of another run'):
            sample_folder(denoiser, tmp_path, wanted, sampler, steps=steps)
    with np.load(write_npz(tmp_path, wanted, tmp_path / 'all.npz')) as npz:
        assert npz.files == ['arr_0'] and len(npz['arr_0']) == 3
