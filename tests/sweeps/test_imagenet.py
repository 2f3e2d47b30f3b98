"""True class indices of ImageNet's files, whatever the layout; and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from imagenet_trees import CLASSES, WNIDS, by_folder, by_name, stock, stock_in_folders

from difflow import load_images
from difflow.data import save_images
from difflow.sweeps import balanced_indices, imagenet_labels, open_images, read_synsets
from difflow.sweeps.imagenet import _GROUND_TRUTH


@pytest.mark.parametrize('layout', [by_folder, by_name, stock_in_folders, stock])
def test_labels_are_true_class_indices(layout, tmp_path):
    layout(tmp_path / 'val')
    images = open_images(tmp_path / 'val', 8, 3)
    colours = [round(int(images[i][0][0].mul(127.5).add(127.5).mean()) / 40) for i in range(15)]
    assert images.labels.tolist() == [CLASSES[k] for k in colours] and len(images.classes) == 1000
    assert all(images.classes[label] == WNIDS[k] for label, k in zip(images.labels.tolist(), colours))
    chosen = balanced_indices(images, num_classes=3, num_per_class=2, synsets=read_synsets())
    assert sorted(images.labels[chosen].tolist()) == [212, 212, 250, 250, 278, 278]
    first = [[i for i in range(15) if images.labels[i] == c][:2] for c in CLASSES[:3]]
    assert chosen == sorted(sum(first, []))
    assert (
        balanced_indices(images) == list(range(15)) and len(balanced_indices(images, num_per_class=3)) == 15
    )
    with pytest.raises(ValueError, match=r'1\.\.3, the smallest class, got 4'):
        balanced_indices(images, num_per_class=4)


def test_meta_mat_and_synset_files(tmp_path):
    "The kit's own list: inner nodes among the classes, rows in no order, numbers from 1"
    from scipy.io import savemat

    stock(tmp_path / 'val')
    data = tmp_path / 'ILSVRC2012_devkit_t12/data'
    rows = [(i + 1, wnid, 0) for i, wnid in enumerate(WNIDS)] + [(6, 'n00001740', 5), (7, 'n00021265', 2)]
    kind = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('num_children', 'O')]
    savemat(
        data / 'meta.mat',
        {'synsets': np.array([rows[i] for i in (6, 2, 0, 5, 4, 3, 1)], dtype=kind)[:, None]},
    )
    (data / _GROUND_TRUTH).write_text(''.join(f'{i % 5 + 1}\n' for i in range(15)))
    assert read_synsets(data / 'meta.mat') == WNIDS
    images = open_images(tmp_path / 'val', 8, 3)
    assert images.labels.tolist() == [sorted(WNIDS).index(WNIDS[i % 5]) for i in range(15)]
    (tmp_path / 'synsets.txt').write_text(''.join(f'{wnid} words\n' for wnid in WNIDS))
    assert (
        open_images(tmp_path / 'val', 8, 3, synsets=tmp_path / 'synsets.txt').labels.tolist()
        == images.labels.tolist()
    )
    moved = data.rename(tmp_path / 'elsewhere')
    assert open_images(tmp_path / 'val', 8, 3).labels is None
    assert open_images(tmp_path / 'val', 8, 3, devkit=moved).labels.tolist() == images.labels.tolist()
    with pytest.raises(ValueError, match='no ILSVRC2012_validation'):
        open_images(tmp_path / 'val', 8, 3, devkit=tmp_path)
    (moved / 'meta.mat').write_bytes(b'no such thing')
    with pytest.raises(ValueError, match='meta.mat: no meta.mat'):
        open_images(tmp_path / 'val', 8, 3, devkit=moved)


def test_labels_that_cannot_be_known(tmp_path):
    stock(tmp_path / 'val')
    truth = tmp_path / 'ILSVRC2012_devkit_t12/data' / _GROUND_TRUTH
    truth.write_text('1\n2\n')
    with pytest.raises(ValueError, match='13 of 15 files belong to none'):
        open_images(tmp_path / 'val', 8, 3)
    truth.unlink()
    images = open_images(tmp_path / 'val', 8, 3)
    with pytest.raises(ValueError, match='no ILSVRC2012_validation_ground_truth.txt was found'):
        balanced_indices(images, num_per_class=1)
    with pytest.raises(ValueError, match='n02119780_1.JPEG'):
        imagenet_labels(['n02119789_1.JPEG', 'n02119780_1.JPEG'], read_synsets())
    (tmp_path / 'twice.txt').write_text('n02119789\nn02119789\n')
    with pytest.raises(ValueError, match='2 WNIDs, 1 different'):
        read_synsets(tmp_path / 'twice.txt')


def test_folders_that_are_numbers_are_classes(tmp_path):
    images = load_images('digits', split='test')[:6]
    save_images(images, tmp_path, [f'{label}/{i}.png' for i, label in enumerate(images.labels.tolist())])
    found = open_images(tmp_path, 8, 1)
    assert all(found.labels[i] == int(Path(found.names[i]).parent.name) for i in range(6))
    assert found.labels.max() > len(set(found.labels.tolist())) - 1, 'not all ten digits are there'
