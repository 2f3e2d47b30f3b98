"""The sets of the study of representations at their places: as its own loaders read them, or refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from difflow.data.studies import PublishedImages

STATISTICS = {
    'cifar10': ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    'cifar100': ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    'mini_imgnet': (
        [x / 255 for x in (120.39586422, 115.59361427, 104.54012653)],
        [x / 255 for x in (70.68188272, 68.27635443, 72.54505529)],
    ),
}
PLACES = {
    'cifar10': ('images/cifar/cifar10/by-image/train+val', 'images/cifar/cifar10/by-image/test', 32),
    'cifar100': ('images/cifar/cifar100/by-image/train+val', 'images/cifar/cifar100/by-image/test', 32),
    'mini_imgnet': ('images/miniimagenet/train', 'images/miniimagenet/test', 84),
}


def pictures(folder, names, side, seed=0):
    "Lay random pictures, grey every third one"
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shape = (side, side) if i % 3 == 2 else (side, side, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)


@pytest.mark.parametrize('name', PLACES)
def test_folders_are_read_as_torchvision_reads_them(name, tmp_path):
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    *places, side = PLACES[name]
    for seed, place in enumerate(places):
        pictures(tmp_path / place, ['b/1.png', 'b/10.png', 'b/2.jpg', 'a/0.png'], side, seed)
    mean, std = STATISTICS[name]
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    for split, place in zip(('train', 'test'), places, strict=True):
        ours, theirs = PublishedImages.at_place(name, tmp_path, split), ImageFolder(tmp_path / place, prepare)
        assert ours.labels.tolist() == theirs.targets == [0, 1, 1, 1]
        assert torch.allclose(ours.images, torch.stack([x for x, _ in theirs]), atol=1e-5)


def test_arrays_are_read_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    for name, kinds in (('synthetic', 4), ('cmnist', 3)):
        (tmp_path / name).mkdir()
        images, labels = rng.normal(size=(5, 3, 8, 8)), rng.integers(0, 9, (5, kinds)).astype(float)
        np.save(tmp_path / name / 'test_imgs.npy', images)
        np.save(tmp_path / name / 'test_labels.npy', labels)
        ours = PublishedImages.at_place(name, tmp_path, 'test')
        assert torch.equal(ours.images, torch.Tensor(images)) and ours.images.dtype == torch.float32
        assert ours.labels.tolist() == labels.tolist() and ours.image_shape == (3, 8, 8)
        assert ours.summary() == f'5 images of {name}, 8x8x3, as their arrays hold them'


def celeba(root):
    "Lay CelebA as Kaggle packs it: two pictures to train on, one for validation, two to test"
    names = [f'{i:06d}.jpg' for i in range(1, 6)]
    pictures(root / 'celeba/img_align_celeba/img_align_celeba', names, 100)
    rows = [f'{name},{part}' for name, part in zip(names, (0, 2, 0, 1, 2), strict=True)]
    (root / 'celeba/list_eval_partition.csv').write_text('\n'.join(['image_id,partition', *rows]))
    signs = np.random.default_rng(0).choice([-1, 1], (5, 40))
    rows = [f'{name},{",".join(map(str, row))}' for name, row in zip(names, signs, strict=True)]
    (root / 'celeba/list_attr_celeba.csv').write_text('\n'.join(['image_id,' + 'A,' * 39 + 'A', *rows]))
    return names, signs


def test_celeba_is_read_by_its_tables(tmp_path):
    from torchvision import transforms

    names, signs = celeba(tmp_path)
    prepare = transforms.Compose([transforms.Resize([64, 64]), transforms.ToTensor()])
    for split, chosen in (('train', [0, 2]), ('test', [1, 4])):
        ours = PublishedImages.at_place('celeba', tmp_path, split)
        assert ours.labels.tolist() == ((signs[chosen] + 1) // 2).tolist()
        folder = tmp_path / 'celeba/img_align_celeba/img_align_celeba'
        theirs = [prepare(Image.open(folder / names[i]).convert('RGB')) for i in chosen]
        assert (ours.images - torch.stack(theirs)).abs().max() < 1.01 / 255  # which rounds to bytes


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    else:
        path.write_text(content)


ARRAYS = {
    'missing': ({}, 'train_imgs.npy is missing'),
    'objects': ({'imgs': np.array([None, 1])}, 'unreadable npy'),
    'text': ({'imgs': np.array(['a'])}, 'wanted are numbers'),
    'no array': ({'imgs': 'nothing'}, 'unreadable npy'),
    'channels last': (
        {'imgs': np.zeros((2, 8, 8, 3)), 'labels': np.zeros((2, 4))},
        r'wanted are \(N, 3, H, W\)',
    ),
    'labels': ({'imgs': np.zeros((2, 3, 8, 8)), 'labels': np.zeros((3, 4))}, r'train_labels.npy \(3, 4\)'),
}


@pytest.mark.parametrize('case', ARRAYS)
def test_wrong_arrays_are_named(case, tmp_path):
    parts, message = ARRAYS[case]
    for part, content in parts.items():
        put(tmp_path / f'synthetic/train_{part}.npy', content)
    with pytest.raises(ValueError, match=message):
        PublishedImages.at_place('synthetic', tmp_path)


def test_wrong_tables_are_named(tmp_path):
    with pytest.raises(ValueError, match='list_eval_partition.csv is missing: it belongs to CelebA'):
        PublishedImages.at_place('celeba', tmp_path)
    celeba(tmp_path)
    path = tmp_path / 'celeba/list_attr_celeba.csv'
    path.write_text('\n'.join(path.read_text().splitlines()[:2]))
    with pytest.raises(ValueError, match='1 of 2 images without attributes'):
        PublishedImages.at_place('celeba', tmp_path)
    path.write_text('image_id,A\n000001.jpg,one\n')
    with pytest.raises(ValueError, match='unreadable csv'):
        PublishedImages.at_place('celeba', tmp_path)


def test_wrong_names_and_parts_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="cifar10, cifar100, mini_imgnet, synthetic, cmnist, celeba, got 'mnist'"
    ):
        PublishedImages.at_place('mnist', tmp_path)
    with pytest.raises(ValueError, match="split='valid'"):
        PublishedImages.at_place('celeba', tmp_path, 'valid')
    with pytest.raises(ValueError, match='folders, one a class, in .*by-image/train'):
        PublishedImages.at_place('cifar100', tmp_path)
