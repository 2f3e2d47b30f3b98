"""Folders of ImageNet in its usual forms: five classes, three images of each, by colour."""

from PIL import Image

from difflow.sweeps import read_synsets
from difflow.sweeps.imagenet import _GROUND_TRUTH

WNIDS = [
    'n02119789',
    'n02100735',
    'n02110185',
    'n15075141',
    'n01440764',
]  # class indices 278, 212, 250, 999, 0


CLASSES = [278, 212, 250, 999, 0]


def picture(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (12, 10), (40 * i, 0, 0)).save(path, 'JPEG')


def by_folder(root):
    for k, wnid in enumerate(WNIDS):
        for j in range(3):
            picture(root / wnid / f'{wnid}_{90 + j}.JPEG', k)


def by_name(root):
    for k, wnid in enumerate(WNIDS):
        for j in range(3):
            picture(root / f'{wnid}_{90 + j}.JPEG', k)


def stock_in_folders(root):
    for i in range(15):
        picture(root / WNIDS[i % 5] / f'ILSVRC2012_val_{i + 1:08d}.JPEG', i % 5)


def stock(root):
    for i in range(15):
        picture(root / f'ILSVRC2012_val_{i + 1:08d}.JPEG', i % 5)
    kit = read_synsets()
    data = root.parent / 'ILSVRC2012_devkit_t12/data'
    data.mkdir(parents=True)
    (data / _GROUND_TRUTH).write_text(''.join(f'{kit.index(WNIDS[i % 5]) + 1}\n' for i in range(15)))
