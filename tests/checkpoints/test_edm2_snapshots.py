"""Files of EDM2: pickles as its training writes them, training states, bare weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

from difflow import EDMDenoiser, export, load_denoiser, save
from difflow.checkpoints import describe
from difflow.checkpoints.edm2_snapshots import _edm2_architecture
from difflow.networks import EDM2UNet
from edm_files import EasyDict, Persistent, dumps, persistent
from golden import wave

TINY = dict(
    img_resolution=16,
    img_channels=3,
    label_dim=5,
    model_channels=32,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
)
HARM = "raise AssertionError('the source text was run')"
LOSS = dict(P_mean=-0.8, P_std=1.6, sigma_data=0.5)
ENCODERS = dict(
    images=('training.encoders.StandardRGBEncoder', {}),
    latents=('training.encoders.StabilityVAEEncoder', dict(vae_name='somebody/vae', batch_size=8, _vae=None)),
    other=('training.encoders.WaveletEncoder', {}),
)


def tiny(**options):
    "Return a network with an answer, and with a gain that lets the noise level in."
    torch.manual_seed(0)
    net = EDM2UNet(**TINY | options).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 0:
                p.fill_(0.7)
    return net


def pickled(path, net, space='images', kwargs=None, unet=None, sigma_data=0.4):
    "Write a snapshot as EDM2's training does: in half precision, with the text of a program."
    half = copy.deepcopy(net).half()
    kwargs = dict(net.config) if kwargs is None else kwargs
    inner = persistent(half, HARM, 'UNet', **kwargs) if unet is None else unet
    outer = nn.Module()
    outer.__dict__['_modules'] = dict(
        unet=inner,
        logvar_fourier=persistent(nn.Linear(1, 8, False), HARM, 'MPFourier'),
        logvar_linear=persistent(nn.Linear(8, 1, False), HARM, 'MPConv'),
    )
    state = {key: value for key, value in vars(outer).items() if key[0] == '_'}
    state |= dict(_init_args=(), _init_kwargs=dict(net.config, use_fp16=True), use_fp16=True, training=False)
    sizes = {key: net.config[key] for key in ('img_resolution', 'img_channels', 'label_dim')}
    name, own = ENCODERS[space]
    data = EasyDict(
        encoder=Persistent(name.rpartition('.')[2], own, HARM),
        dataset_kwargs=EasyDict(class_name='training.dataset.ImageFolderDataset', use_labels=True),
        loss_fn=Persistent('EDM2Loss', LOSS, HARM),
        ema=Persistent('Precond', state | sizes | dict(sigma_data=sigma_data), HARM),
    )
    path.write_bytes(dumps(data))
    return path


def asked(net):
    labels = torch.tensor([0, 5]) if net.num_classes else None  # 5: no label
    return wave((2, net.config['img_channels'], 16, 16)), torch.tensor([0.3, 5.0]), labels


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(label_dim=0),
        dict(resample_filter=[1, 3, 3, 1], channels_per_head=32, res_balance=0.5, clip_act=None),
        dict(channel_mult_noise=2, channel_mult_emb=3, label_balance=0.2, concat_balance=0.4),
    ],
)
def test_a_snapshot_says_everything(options, tmp_path):
    net = tiny(**options)
    path = pickled(tmp_path / 'network-snapshot-0001024-0.100.pkl', net)
    loaded = load_denoiser(path)
    assert type(loaded) is EDMDenoiser and loaded.net.config == net.config and not loaded.training
    assert loaded.options == LOSS | dict(sigma_data=0.4) and loaded.assumed == {}
    assert loaded.card['space'] == 'images' and loaded.card['weights'] == 'ema.unet (averaged)'
    rounded = copy.deepcopy(net).half().float()
    assert list(loaded.net.state_dict()) == list(net.state_dict())
    with torch.inference_mode():
        direct = EDMDenoiser(rounded, sigma_data=0.4)
        assert torch.equal(loaded(*asked(net)), direct(*asked(net)))
    facts = describe(path)
    assert (facts['format'], facts['image_shape'], facts['missing']) == ('EDM2 pickle', [3, 16, 16], [])
    assert facts['classes'] == net.num_classes
    again = load_denoiser(save(loaded, tmp_path / 's.safetensors'))
    assert again.options == loaded.options and again.net.config == loaded.net.config


def test_latents_are_refused_until_they_are_expected(tmp_path):
    path = pickled(tmp_path / 'edm2-img512.pkl', tiny(img_channels=4), 'latents')
    words = (
        'edm2-img512.pkl: the network works on latents of somebody/vae, not on images: '
        "give codec= to see images, or space='latents'"
    )
    for call in load_denoiser, describe:
        with pytest.raises(ValueError, match=words):
            call(path)
    loaded = load_denoiser(path, space='latents')
    assert loaded.image_shape == (4, 16, 16)
    codec = (lambda images: images.repeat(1, 2, 1, 1)[:, :4], lambda latents: latents[:, :3] / 8)
    seen = load_denoiser(path, codec=codec)
    assert (seen.image_shape, seen.pixel_shape) == ((4, 16, 16), (3, 16, 16))
    x = torch.ones(1, 4, 16, 16)
    assert torch.equal(seen(x, 2.0), loaded(x, 2.0)) and seen.card['space'] == 'latents'
    assert loaded.card['space'] == 'latents' and loaded.card['codec'] == 'somebody/vae'
    with pytest.raises(
        ValueError, match="space is 'latents' in the file, by its StabilityVAEEncoder, got 'im"
    ):
        load_denoiser(path, space='images')
    with pytest.raises(ValueError, match="space must be one of 'images', 'latents', got 'pixels'"):
        load_denoiser(path, space='pixels')
    images = pickled(tmp_path / 'edm2-img64.pkl', tiny())
    with pytest.raises(
        ValueError, match="space is 'images' in the file, by its StandardRGBEncoder, got 'lat"
    ):
        load_denoiser(images, space='latents')
    unknown = pickled(tmp_path / 'other.pkl', tiny(), 'other')
    with pytest.raises(ValueError, match='works on what an unknown WaveletEncoder makes: give space='):
        load_denoiser(unknown)
    assert load_denoiser(unknown, space='images').card['space'] == 'images'


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(kwargs=TINY | dict(banana=1)), "an unknown argument 'banana'"),
        (dict(kwargs=TINY | dict(model_channels=64)), 'do not fit this EDM2UNet'),
        (dict(kwargs=TINY | dict(channel_mult=[1] * 200)), 'channel_mult must'),
        (dict(kwargs=TINY | dict(model_channels=1 << 15)), 'far larger than they are'),
        (dict(unet=7), 'unet is no module|no network that is known'),
    ],
)
def test_damaged_snapshots_are_refused(change, message, tmp_path):
    path = pickled(tmp_path / 'n.pkl', tiny(), **change)
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(path)
    assert 'n.pkl' in str(error.value)


def test_averages_of_a_training_state(tmp_path):
    nets = [tiny(channels_per_head=64, img_channels=1) for _ in range(3)]
    for i, net in enumerate(nets):
        with torch.no_grad():
            net.out_gain.fill_(i + 1.0)
    head = {'logvar_fourier.freqs': torch.zeros(8), 'logvar_linear.weight': torch.zeros(1, 8)}
    states = [{f'unet.{key}': value for key, value in net.state_dict().items()} | head for net in nets]
    ema = dict(stds=[0.05, 0.1], emas=states[1:])
    path = tmp_path / 'training-state-0001024.pt'
    torch.save(dict(state={}, net=states[0], loss_fn=LOSS, optimizer={}, ema=ema), path)
    with pytest.raises(
        ValueError, match="2 networks are in the file, give key= one of 'net.unet', 'ema.emas.0"
    ):
        load_denoiser(path)
    for key, net in zip(('net', 'ema.emas.0', 'ema.emas.1'), nets):
        loaded = load_denoiser(path, key=key)
        assert loaded.options == LOSS and loaded.assumed['channels_per_head'] == 64
        with torch.inference_mode():
            assert torch.equal(loaded(*asked(net)), EDMDenoiser(net, **LOSS)(*asked(net)))
    torch.save(dict(net=states[0], ema=dict(stds=[0.1], emas=states[2:])), path)
    assert load_denoiser(path).net.out_gain == 3  # the one average


def test_bare_weights_ask_what_they_predict(tmp_path):
    denoiser = EDMDenoiser(tiny(channels_per_head=64))
    torch.save(denoiser.state_dict(), tmp_path / 'bare.pt')
    for path in (tmp_path / 'bare.pt', export(denoiser, tmp_path / 'bare.safetensors')):
        with pytest.raises(ValueError, match='give prediction='):
            load_denoiser(path)
        with pytest.raises(ValueError, match='unknown argument .banana., expected one of sigma_data'):
            load_denoiser(path, prediction='edm', banana=1)
        loaded = load_denoiser(path, prediction='edm', sigma_data=0.3)
        assert loaded.sigma_data == 0.3 and loaded.assumed['clip_act'] == 256
        with torch.inference_mode():
            expected = EDMDenoiser(denoiser.net, sigma_data=0.3)(*asked(denoiser.net))
            assert torch.equal(loaded(*asked(denoiser.net)), expected)


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(model_channels=48, channel_mult=[2, 3], label_dim=0),
        dict(num_blocks=3, channel_mult=[1, 1, 2], attn_resolutions=[]),
        dict(channel_mult=[3], attn_resolutions=[16]),
        dict(channel_mult_noise=3, channel_mult_emb=5),
    ],
)
def test_shapes_tell_the_architecture(options):
    shapes = lambda net: {key: tuple(value.shape) for key, value in net.state_dict().items()}
    with torch.device('meta'):
        net = EDM2UNet(**TINY | dict(channels_per_head=16) | options)
        again = EDM2UNet(**_edm2_architecture(shapes(net)), channels_per_head=16)
    assert shapes(again) == shapes(net)


@pytest.mark.parametrize('space, channels', [('images', 3), ('latents', 4)])
def test_what_the_published_code_writes(space, channels, tmp_path):
    published = pytest.importorskip('training.networks_edm2')  # github.com/NVlabs/edm2 on the path
    dnnlib, encoders = pytest.importorskip('dnnlib'), pytest.importorskip('training.encoders')
    loss = pytest.importorskip('training.training_loop').EDM2Loss(**LOSS)
    torch.manual_seed(0)
    net = published.Precond(**TINY | dict(img_channels=channels), use_fp16=True, dropout=0.1)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 0:
                p.fill_(0.8)
    encoder = getattr(encoders, ENCODERS[space][0].rpartition('.')[2])()
    data = dnnlib.EasyDict(encoder=encoder, dataset_kwargs=dict(use_labels=True), loss_fn=loss)
    data.ema = net.eval().requires_grad_(False).half()
    (tmp_path / 'n.pkl').write_bytes(pickle.dumps(data))
    loaded = load_denoiser(tmp_path / 'n.pkl', space=space)
    assert loaded.options == LOSS and loaded.net.config['dropout'] == 0.1
    x, sigma, _ = asked(loaded.net)
    with torch.inference_mode():
        expected = net.float()(x, sigma, torch.eye(5)[[0, 3]], force_fp32=True)
        answer = loaded(x, sigma, torch.tensor([0, 3]))
    assert (answer - expected).abs().max() < 1e-4 * expected.abs().max()
