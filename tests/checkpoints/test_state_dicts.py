"""State dicts of other people: the network in the shapes, and what the caller adds."""

import time
from pathlib import Path

import pytest
import torch
from small_models import TELL, answer

from difflow import DDPMDenoiser, Scheduler, UNet, load_denoiser
from difflow.checkpoints import published_config
from difflow.checkpoints.archives import _recognised
from difflow.checkpoints.catalogue import _BY_SIZE, _FACTORIES
from difflow.checkpoints.formats import _Contents
from difflow.checkpoints.guided_unets import _ANCHORS, _plan_guided
from difflow.checkpoints.stand_ins import _PickledObject
from golden import FIXTURES, fill, tiny_unet


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: {'model': s},
        lambda s: {'state_dict': s, 'epoch': 3},
        lambda s: {f'module.{k}': v for k, v in s.items()},
        lambda s: {'model': {f'module.{k}': v for k, v in s.items()}},
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_wrappers(wrap, zipped, tmp_path):
    net = tiny_unet()
    torch.save(wrap(net.state_dict()), tmp_path / 'm.pt', _use_new_zipfile_serialization=zipped)
    loaded = load_denoiser(tmp_path / 'm.pt', **TELL)
    assert loaded.net.config == net.config and loaded.variance_type == 'learned_range'
    assert torch.equal(answer(loaded), answer(DDPMDenoiser(net, variance='learned_range')))


def test_the_callers_attention_order_is_used(tmp_path):
    net = tiny_unet(num_head_channels=16, use_new_attention_order=True)
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    expected = answer(DDPMDenoiser(net))
    tell = TELL | dict(num_head_channels=16)
    right = load_denoiser(tmp_path / 'm.pt', **tell | dict(use_new_attention_order=True))
    wrong = load_denoiser(tmp_path / 'm.pt', **tell)
    assert torch.equal(answer(right), expected)
    assert (answer(wrong) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(resblock_updown=True),
        dict(channel_mult='1,1,2', num_classes=5, null_class=True, patch_size=2),
        dict(channel_mult='1', attention_resolutions=()),
        dict(channel_mult='1,1,2', num_res_blocks=[0, 1, 2], attention_resolutions='8,14'),
        dict(channel_mult='1,2,2', num_res_blocks=[2, 1, 0], resblock_updown=True),
        dict(channel_mult='0.5,1', model_channels=64),
        dict(use_scale_shift_norm=False, resblock_updown=True, num_res_blocks=2, out_channels=2),
        dict(time_embed_mult=2, resblock_updown=True, num_res_blocks=3, attention_resolutions='28,16,14'),
    ],
)
@pytest.mark.parametrize('size', [16, 28])
def test_configurations_are_recovered(options, size, tmp_path):
    base = dict(
        image_size=size,
        in_channels=1,
        out_channels=1,
        model_channels=32,
        num_res_blocks=1,
        num_heads=2,
        channel_mult='1,2,1',
        attention_resolutions=(size // 2,),
    )
    net = UNet(**base | options)
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    extra = {name: options[name] for name in ('patch_size', 'null_class') if name in options}
    loaded = load_denoiser(
        tmp_path / 'm.pt',
        image_size=size,
        num_heads=2,
        use_new_attention_order=False,
        schedule='cosine',
        diffusion_steps=100,
        **extra,
    )
    assert loaded.net.state_dict().keys() == net.state_dict().keys()
    for name in net.config.keys() - {'attention_resolutions'}:
        assert loaded.net.config[name] == net.config[name]
    assert set(loaded.net.config['attention_resolutions']) <= set(net.config['attention_resolutions'])
    assert loaded.scheduler == Scheduler.cosine(100)


def meta_plan(given=None, **options):
    with torch.device('meta'):
        net = UNet(**options)
    return net, _plan_guided(net.state_dict(), given or {})


ADM = dict(
    model_channels=256,
    out_channels=6,
    attention_resolutions='32,16,8',
    num_head_channels=64,
    resblock_updown=True,
)


@pytest.mark.parametrize(
    'options, schedule',
    [
        (ADM | dict(image_size=256), 'linear'),
        (ADM | dict(image_size=256, num_classes=1000), 'linear'),
        (ADM | dict(image_size=512, num_classes=1000), 'linear'),
        (ADM | dict(image_size=128, num_classes=1000, num_head_channels=-1, num_heads=4), 'linear'),
        (
            ADM
            | dict(
                image_size=64,
                num_classes=1000,
                model_channels=192,
                num_res_blocks=3,
                dropout=0.1,
                use_new_attention_order=True,
            ),
            'cosine',
        ),
    ],
)
def test_published_guided_diffusion_models_are_known(options, schedule):
    net, plan = meta_plan(**options)
    assert plan.missing == [] and plan.card == {'model': f'guided-diffusion {options["image_size"]}'}
    assert plan.options == dict(
        prediction='eps',
        variance='learned_range',
        clip=True,
        scheduler={'name': schedule, 'options': {'n': 1000}},
    )
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config


@pytest.mark.parametrize('factory', ['UNet', 'UNetBig', 'UNetSmall'])
@pytest.mark.parametrize(
    'size, channels, classes', [(28, 1, 10), (28, 1, None), (32, 3, 43), (64, 3, 102), (128, 3, None)]
)
def test_published_minimal_diffusion_models_are_known(factory, size, channels, classes):
    factories = {'UNet': (64, 3, 4, 64), 'UNetBig': (192, 3, 4, 64), 'UNetSmall': (32, 2, 2, 32)}
    width, blocks, mult, head = factories[factory]
    net, plan = meta_plan(
        image_size=size,
        in_channels=channels,
        model_channels=width,
        out_channels=channels,
        dropout=0.1,
        num_res_blocks=blocks,
        attention_resolutions='28,14,7' if size == 28 else '32,16,8',
        num_head_channels=head,
        num_classes=classes,
        resblock_updown=True,
        use_new_attention_order=True,
        time_embed_mult=mult,
    )
    assert plan.missing == [] and plan.card == {'model': f'minimal-diffusion {factory} {size}'}
    assert plan.options == dict(
        prediction='eps',
        variance='fixed_small',
        clip=True,
        scheduler={'name': 'cosine', 'options': {'n': 1000}},
    )
    with torch.device('meta'):
        assert UNet(**plan.config).config == net.config


@pytest.mark.parametrize('size, maps', [(28, [28, 14, 7]), (32, [32, 16, 8])])
def test_mnist_m_and_cifar10_are_told_apart_by_the_caller(size, maps):
    options = dict(
        image_size=size,
        model_channels=64,
        num_res_blocks=3,
        attention_resolutions=maps,
        num_classes=10,
        num_head_channels=64,
        resblock_updown=True,
        use_new_attention_order=True,
    )
    assert meta_plan(**options)[1].missing == ['image_size=']
    plan = meta_plan(dict(image_size=size), **options)[1]
    assert plan.missing == [] and plan.config['attention_resolutions'] == maps


def test_the_caller_beats_the_table():
    given = dict(
        num_heads=8, schedule=Scheduler.cosine(50), variance='fixed_large', use_new_attention_order=True
    )
    plan = meta_plan(given, **ADM | dict(image_size=256))[1]
    assert plan.config['num_heads'] == 8 and plan.config['num_head_channels'] == -1
    assert plan.config['use_new_attention_order'] and plan.options['variance'] == 'fixed_large'
    assert plan.options['scheduler'] == Scheduler.cosine(50).to_dict()
    assert not {'schedule', 'num_heads', 'variance'} & plan.assumed.keys()


def test_the_published_list_of_keys_makes_the_unconditional_model():
    lines = [
        line.split('\t') for line in (FIXTURES / 'adm256_uncond_state_dict.txt').read_text().splitlines()
    ]
    tensors = {
        key: torch.empty([int(n) for n in shape.strip('()').split(',') if n], device='meta')
        for key, shape in lines
    }
    assert len(tensors) == 566
    plan = _plan_guided(tensors, {})
    with torch.device('meta'):
        net = UNet(**plan.config)
    assert {k: t.shape for k, t in net.state_dict().items()} == {k: t.shape for k, t in tensors.items()}
    assert plan.config['num_head_channels'] == 64 and not plan.config['use_new_attention_order']


@pytest.mark.parametrize('size', _BY_SIZE)
@pytest.mark.parametrize('classes', [None, 1000])
def test_reduced_guided_diffusion_models_load_and_answer(size, classes, tmp_path):
    config = published_config('ADM', size, num_classes=classes)
    config |= dict(
        model_channels=64,
        num_heads=4,
        num_res_blocks=1,
        attention_resolutions=[size // 32],
        channel_mult=[1, 1],
        image_size=16,
        num_head_channels=-1,
    )
    net = fill(UNet(**config | dict(attention_resolutions=[8])))
    torch.save(net.state_dict(), tmp_path / 'm.pt')
    new_order = config.get('use_new_attention_order', False)
    loaded = load_denoiser(
        tmp_path / 'm.pt', image_size=16, num_heads=4, schedule='linear', use_new_attention_order=new_order
    )
    labels = torch.tensor([3, 999]) if classes else None
    expected = DDPMDenoiser(net, variance='learned_range')
    assert torch.equal(answer(loaded, labels), answer(expected, labels))


@pytest.mark.parametrize('factory', _FACTORIES)
def test_released_minimal_diffusion_files_load_strictly(factory, tmp_path):
    config, whole = published_config(factory, 28, 1, 10), factory == 'UNetSmall'
    if not whole:
        config |= dict(model_channels=32, num_head_channels=32)  # the others on the meta device, above
    net = UNet(**config)
    path = tmp_path / f'{factory}_mnist-epoch_100-timesteps_1000-class_condn_True_ema_0.9995.pt'
    torch.save({f'module.{name}': tensor for name, tensor in net.state_dict().items()}, path)
    given = dict(image_size=28, num_head_channels=32, schedule='cosine', use_new_attention_order=True)
    loaded = load_denoiser(path, **{} if whole else given)
    assert loaded.net.state_dict().keys() == net.state_dict().keys() and loaded.num_classes == 10
    assert loaded.scheduler == Scheduler.cosine(1000)
    assert all(torch.equal(loaded.net.state_dict()[k], t) for k, t in net.state_dict().items())


@pytest.mark.parametrize(
    'given, message',
    [
        (
            {},
            'give image_size=, num_heads= or num_head_channels=, use_new_attention_order=, '
            'prediction=, schedule=$',
        ),
        (dict(image_size=32, num_heads=1), 'give use_new_attention_order=, prediction=, schedule=$'),
        (TELL | dict(schedule='square'), "scheduler must be one of .* got 'square'"),
        (TELL | dict(banana=1), "unknown argument 'banana', expected one of attention_resolutions"),
        (TELL | dict(model_channels=64), 'model_channels is 32 in the file, got 64'),
        (TELL | dict(channel_mult='1,4'), r"channel_mult is \[1, 2\] in the file, got '1,4'"),
        (TELL | dict(learn_sigma=False), 'learn_sigma is True in the file, got False'),
        (TELL | dict(num_head_channels=5), 'num_head_channels must divide'),
        (TELL | dict(attention_resolutions='32'), r'attention_resolutions is \[16\] in the file, got \[32\]'),
    ],
)
def test_what_a_file_cannot_tell(given, message, tmp_path):
    torch.save(tiny_unet().state_dict(), tmp_path / 'm.pt')
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(tmp_path / 'm.pt', **given)
    assert str(tmp_path / 'm.pt') in str(error.value)


def test_modules_that_stand_in_many_places_have_an_end():
    def module(**inside):
        made = _PickledObject('torch.nn.Module')
        made.state = dict(_modules=inside, _parameters={})
        return made

    shared = module(**{f'c{i}': module() for i in range(30_000)})
    for name in ('Module', 'EDMPrecond'):
        tree = {f'm{i}': module(a=shared) for i in range(300)}
        for thing in tree.values():
            thing.name = name
        start = time.process_time()
        with pytest.raises(ValueError, match='endless'):
            _recognised(_Contents(Path('w.pkl'), 'pickle', tree, {}))
        assert time.process_time() - start < 20
    names = {f'n{i}.{name}': torch.ones(1) for i in range(2000) for name in _ANCHORS}
    with pytest.raises(ValueError, match='more than 20 networks'):
        _recognised(_Contents(Path('w.pkl'), 'pickle', names, {}))
