"""`ImageSet.of` of arrays, pictures, rows and data sets; what does not fit is refused at construction."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from difflow import ImageSet, load_images
from difflow.data import to_float


class Rows:
    "A stand-in for `datasets.Dataset`: rows, and columns by name"

    def __init__(self, columns, names=None):
        self.columns, self.column_names, self.opened = columns, list(columns), []
        self.features = {key: None for key in columns}
        if names:
            self.features['label'] = type('ClassLabel', (), {'names': names})()

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i):
        if isinstance(i, str):
            return self.columns[i]
        self.opened.append(i)
        return {key: values[i] for key, values in self.columns.items()}


@pytest.fixture
def pictures(pixels):
    return [Image.fromarray(p) for p in pixels.permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize('form', [torch.Tensor, np.ndarray, list])
@pytest.mark.parametrize('floats', [False, True])
@pytest.mark.parametrize('channels', [1, 3])
def test_channels_last(pixels, form, floats, channels):
    images = pixels[:, :channels]
    given = (to_float(images) if floats else images).permute(0, 2, 3, 1)
    given = given if form is torch.Tensor else given.numpy()
    s = ImageSet.of(list(given) if form is list else given)
    assert torch.equal(s.images, images) and s.image_shape == (channels, 9, 12)


def test_floats_of_other_channels_are_kept():
    for shape in ((2, 16, 1, 3), (2, 32, 1, 1), (2, 4, 8, 8)):
        assert ImageSet.of(torch.zeros(shape)).tensor().shape == shape


@pytest.mark.parametrize('shape', [(2, 3, 4, 3), (2, 1, 4, 3), (2, 3, 3, 3)])
def test_arrays_that_may_be_either_are_named(shape):
    with pytest.raises(ValueError, match=r'channels may be first or last; pass a tensor'):
        ImageSet.of(np.zeros(shape, np.uint8))
    assert ImageSet.of(torch.zeros(shape, dtype=torch.uint8)).image_shape == shape[1:]


def test_rows_with_an_image_column(pixels, pictures):
    for key, column in (('image', pictures), ('img', list(pixels.permute(0, 2, 3, 1).numpy()))):
        rows = Rows({key: column, 'label': [0, 1] * 3}, ['cat', 'dog'])
        s = ImageSet.of(rows)
        assert s.labels.tolist() == [0, 1] * 3 and s.classes == ['cat', 'dog'] and len(rows.opened) < 3
        assert torch.equal(s.images, pixels)
    s = ImageSet.of(Rows({'image': pictures, 'fine_label': list(range(6))}))
    assert s.labels.tolist() == list(range(6)) and torch.equal(s[[4, 2]].images, pixels[[4, 2]])
    assert ImageSet.of(Rows({'image': pictures})).labels is None
    assert torch.equal(ImageSet.of([{'image': p, 'label': 1} for p in pictures]).images, pixels)
    with pytest.raises(ValueError, match=r"columns \['text'\], wanted is image or img"):
        ImageSet.of(Rows({'text': ['a']}))


def test_pairs_and_subsets(pixels):
    whole = TensorDataset(pixels, torch.arange(6))
    assert torch.equal(ImageSet.of(whole).images, pixels) and ImageSet.of(whole).labels.tolist() == [
        *range(6)
    ]
    part = ImageSet.of(Subset(whole, [4, 1]))
    assert part.labels.tolist() == [4, 1] and torch.equal(part.images, pixels[[4, 1]])
    both = ImageSet.of(ConcatDataset([whole, Subset(whole, [2])]))
    assert both.labels.tolist() == [*range(6), 2]
    batches = DataLoader(both, 3, num_workers=1)
    assert torch.equal(torch.cat([x for x, _ in batches]), both.tensor())
    alone = ImageSet.of(TensorDataset(to_float(pixels)))
    assert alone.labels is None and torch.equal(alone.tensor(), to_float(pixels))


def test_sets_of_torchvision():
    transforms = pytest.importorskip('torchvision.transforms')
    from torchvision.datasets import FakeData

    plain = FakeData(8, (3, 5, 7), 4)
    pixels = torch.stack([transforms.functional.pil_to_tensor(plain[i][0]) for i in range(8)])
    for transform in (None, transforms.PILToTensor(), transforms.ToTensor()):
        s = ImageSet.of(FakeData(8, (3, 5, 7), 4, transform))
        assert torch.equal(s.images, pixels) and s.labels.tolist() == [plain[i][1] for i in range(8)]
        assert torch.equal(
            ImageSet.of(Subset(FakeData(8, (3, 5, 7), 4, transform), [3])).images, s[[3]].images
        )


def test_a_data_set_that_fails_names_the_image(pictures):
    class Broken(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i == 1:
                raise OSError('gone')
            return pictures[i]

    s = ImageSet.of(Broken())
    assert s.broken() == {1: 'image 1: unreadable image (gone)'}


@pytest.mark.parametrize('labels', [[0.5, 1], [0, float('nan')], [0, -1], ['a', 'b'], [[0], [1, 2]], [0]])
def test_wrong_labels_are_refused(labels):
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match='labels'):
        ImageSet(pixels, labels)
    if len(labels) == 2:
        with pytest.raises(ValueError, match='labels are'):
            ImageSet.of(list(zip(pixels, labels)))


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (
            torch.zeros(4, 28, 28, 1, dtype=torch.uint8),
            r'C = 1 or 3.*\(4, 28, 28, 1\); ImageSet.of',
        ),
        (torch.zeros(4, 28, 4, 4, dtype=torch.uint8), 'C = 1 or 3'),
        (np.zeros((4, 1, 8, 8), np.uint8), 'ImageSet.of takes other forms'),
        ([1, 2], 'not list'),
    ],
)
def test_the_constructor_takes_bytes_with_channels_first(images, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images)


def test_more_labels_than_classes_are_refused(pixels):
    with pytest.raises(ValueError, match='label 5, but names of 2 classes'):
        ImageSet(pixels, range(6), classes=['a', 'b'])


@pytest.mark.parametrize(
    'images',
    [
        [torch.zeros(1, 4, 4), torch.zeros(3, 4, 4)],
        [torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)],
        [Image.new('L', (4, 4)), torch.zeros(1, 4, 4)],
        [Image.new('L', (4, 4)), 'b'],
        [['a']],
        torch.zeros(4, 28, 4, 4, dtype=torch.uint8),
        [Image.new('F', (4, 4))],
    ],
)
def test_what_does_not_fit_is_refused(images):
    with pytest.raises(ValueError, match='image'):
        ImageSet.of(images)


# Slices and summary


@pytest.mark.parametrize('cut', [slice(None, None, -1), slice(4, 0, -2), slice(0, 4, -1), slice(9, None, -3)])
def test_negative_steps(pixels, flat, cut):
    for s in (ImageSet(pixels, range(6)), ImageSet.of(to_float(pixels)), load_images(flat)):
        assert s[cut].names == s.names[cut] and len(s[cut]) == len(range(6)[cut])
        assert [torch.equal(x, pixels[i]) for x, i in zip(s[cut].images, range(6)[cut])] == [True] * len(
            s[cut]
        )
    assert torch.equal(s[np.arange(6)[::-1]].images, pixels.flip(0))


@pytest.mark.parametrize('index', [None, 'a', ..., 1j, [None], {0: 1}])
def test_what_is_no_index(pixels, index):
    with pytest.raises(ValueError, match='an index into 6 images'):
        ImageSet(pixels)[index]


def test_summary(tmp_path, flat, pixels):
    s = load_images(flat, max_images=4)
    assert s.summary() == '4 of 6 images of flat, 9x12x3, no classes'
    assert s[1:3].summary() == '2 of 6 images of flat, 9x12x3, no classes'
    assert s[[0]][:0].summary() == '0 of 6 images of flat, no classes'
    assert load_images(flat / '000001.png').summary() == '1 of 1 images of 000001.png, 9x12x3, no classes'
    digits = load_images('digits', split='train', size=4)
    assert digits.summary() == '1437 of 1797 images of digits, 4x4x1, 10 classes'
    assert ImageSet(pixels, [[0, 1, 2]] * 6).summary() == '6 of 6 images of memory, 9x12x3, labels of 3 kinds'
    assert ImageSet(pixels, range(6))[::2].summary().endswith('3 of 6 images of memory, 9x12x3, 5 classes')
    assert (
        load_images('fakedata', size=3, image_size=(3, 4, 4)).summary()
        == '1000 of 1000 images of fakedata, 3x3x3, 10 classes'
    )
