"""Wrong arguments of everything behind the front door: refused by name, never answered by nonsense."""

import inspect
import math
import re
from functools import cache

import numpy as np
import pytest
import torch

import difflow as df
from difflow.networks import DiT, EDM2UNet, LucidUNet

NAN, INF = math.nan, math.inf
ALLOWED = ValueError, TypeError, IndexError, FileNotFoundError  # what a wrong argument may raise

# What is wrong for each kind of argument, by the words it is remembered by.
COUNT = dict(
    zero=0,
    negative=-1,
    half=2.5,
    nan=NAN,
    inf=INF,
    true=True,
    text='3',
    none=None,
    empty=[],
    many=torch.ones(2),
)
POSITIVE = dict(zero=0.0, negative=-1.0, nan=NAN, inf=INF, true=True, text='x', none=None, empty=[])
NUMBER = dict(nan=NAN, inf=INF, true=True, text='x', none=None, empty=[], complex=1j)
SHARE = dict(negative=-0.5, above=1.5, nan=NAN, inf=INF, true=True, text='x', none=None, empty=[])
FLAG = dict(text='no', number=2, none=None, empty=[])
CHOICE = dict(unknown='nonsense', number=3, none=None, empty=[], nan=NAN)
OBJECT = dict(number=3, text='x', none=None, empty=[], tensor=torch.zeros(2))
SEED = dict(
    negative=-1, large=2**64, half=0.5, nan=NAN, true=True, text='1', none=None, generator=torch.Generator()
)
SEEDS = SEED | dict(
    few=[0], wrong=[0, -1], halves=[0.5, 1.5], floats=torch.zeros(2), grid=torch.zeros(2, 1).long()
)
NOISY = torch.full((2, 1, 8, 8), 0.25)
IMAGES = dict(
    nan=NOISY * NAN,
    one_nan=NOISY.clone().index_fill_(0, torch.tensor([1]), NAN),
    inf=NOISY * INF,
    whole=NOISY.long(),
    flat=NOISY[0, 0, 0],
    none_at_all=NOISY[:0],
    text='no-such-set',
    none=None,
    number=3,
    complex=NOISY.to(torch.complex64),
)
PART = dict(number=3, text='x', empty=[])  # an object, or None
PATH = dict(number=3, true=True, empty=[])  # or None
SHAPED = dict(
    three=NOISY[:, 0], wide=NOISY[..., :4], channels=NOISY.expand(2, 3, 8, 8)
)  # other than the denoiser's
PIXELS = IMAGES | dict(bright=NOISY * 1000)
LABELS = dict(
    floats=torch.tensor([0.0, 1.0]),
    few=torch.tensor([0]),
    high=torch.tensor([0, 7]),
    negative=torch.tensor([-1, 0]),
    grid=torch.zeros(2, 1).long(),
    text='x',
    half=0.5,
    true=True,
)
SHAPE = dict(zero=(1, 0, 8), half=(1, 8, 2.5), text='8', number=8, empty=(), negative=(-1, 8, 8))
LEVELS = dict(
    zero=[0.0, 1.0],
    nan=[NAN, 1.0],
    inf=[1.0, INF],
    negative=[-1.0, 1.0],
    text='x',
    none=None,
    empty=[],
    number=1.0,
)


def without(kind, *words):
    "Leave out what is right for an argument"
    return {word: value for word, value in kind.items() if word not in words}


@cache
def gaussian():
    return df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.25)


@cache
def classy():
    "An exact denoiser of two classes"
    return df.OptimalDenoiser(df.normal((4, 1, 8, 8)).clamp(-1, 1), labels=torch.tensor([0, 1, 0, 1]))


@cache
def network():
    torch.manual_seed(0)
    return df.UNet(8, 1, 32, 1, 1, (), (1,))


@cache
def encoder():
    torch.manual_seed(0)
    return df.TimeEncoder(k=0.5, in_channels=1, depth=10).eval()


@cache
def descriptor():
    torch.manual_seed(0)
    return df.SSCD('small', dims=4).eval()


@cache
def digits():
    return df.load_images('digits', max_images=60)


def codes(rows=12):
    return df.normal((rows, 3, 4))


def unit(rows=6):
    return torch.nn.functional.normalize(df.normal((rows, 4)))


def walk(sampler):
    "A sampler as a function: all of its states"
    return lambda **arguments: list(sampler(**arguments))


def fitted(mixer):
    "A mixer as a function: made and fitted"
    return lambda codes, labels, **settings: mixer(**settings).fit(codes, labels)


TWO = torch.tensor([0, 1])
FEATURES = dict(
    nan=unit() * NAN, text='no-such-file.npz', none=None, flat=unit()[0], none_at_all=unit()[:0], number=3
)
WALK = dict(denoiser=OBJECT, x=IMAGES | SHAPED, sigmas=LEVELS | dict(rising=[1.0, 2.0]), seeds=SEEDS,
            labels=without(LABELS, 'true'), clip=without(FLAG, 'none'), guidance=NUMBER | dict(strong=2.0),
            batch_size=without(COUNT, 'none'), noise=dict())  # fmt: skip
LEVEL = POSITIVE
ENDS = dict(sigma_min=POSITIVE | dict(above=1e9), sigma_max=POSITIVE)


def networks():
    "Constructors of networks"
    counts = 'image_size in_channels model_channels out_channels num_res_blocks num_heads time_embed_mult'
    counts += ' patch_size'
    flags = 'use_scale_shift_norm resblock_updown use_new_attention_order use_checkpoint null_class'
    kinds = dict.fromkeys(counts.split(), COUNT) | dict.fromkeys(flags.split(), FLAG)
    kinds |= dict(
        attention_resolutions=dict(text='x', half=[NAN], negative=[-1]), dropout=SHARE | dict(one=1.0)
    )
    kinds |= dict(
        channel_mult=dict(text='x', zero=[0], negative=[-1], nan=[NAN]), num_classes=without(COUNT, 'none')
    )
    kinds |= dict.fromkeys(
        ('num_head_channels', 'num_heads_upsample'), without(COUNT, 'negative') | dict(two=-2)
    )
    small = dict(image_size=8, in_channels=1, model_channels=32, out_channels=1, num_res_blocks=1,
                 attention_resolutions=(), channel_mult=(1,))  # fmt: skip
    yield 'UNet', df.UNet, small, kinds
    counts = 'img_resolution in_channels out_channels model_channels channel_mult_emb num_blocks'
    counts += ' channel_mult_noise'
    kinds = dict.fromkeys(counts.split(), COUNT)
    kinds |= dict.fromkeys(('label_dim', 'augment_dim'), without(COUNT, 'zero'))
    kinds |= dict(channel_mult=SHAPE, attn_resolutions=dict(zero=[0], half=[2.5], text='8'))
    kinds |= dict.fromkeys(('dropout', 'label_dropout'), SHARE | dict(one=1.0))
    kinds |= dict.fromkeys(('embedding_type', 'encoder_type', 'decoder_type'), CHOICE)
    kinds |= dict(resample_filter=dict(text='x', none=None, empty=[], nan=[NAN]))
    kinds['channel_mult'] = without(SHAPE, 'number')
    small = dict(
        img_resolution=8, in_channels=1, out_channels=1, model_channels=32, channel_mult=(1,), num_blocks=1
    )
    yield 'SongUNet', df.SongUNet, small, kinds
    song = 'embedding_type encoder_type decoder_type channel_mult_noise resample_filter'.split()
    yield 'DhariwalUNet', df.DhariwalUNet, small | dict(model_channels=64), without(kinds, *song)
    counts = 'in_channels out_channels layers_per_block norm_num_groups'
    kinds = dict.fromkeys(counts.split(), COUNT)
    optional = 'sample_size time_embedding_dim attention_head_dim attn_norm_num_groups num_class_embeds'
    kinds |= dict.fromkeys(optional.split(), without(COUNT, 'none'))
    kinds |= dict.fromkeys('center_input_sample flip_sin_to_cos add_attention'.split(), FLAG)
    choices = (
        'time_embedding_type mid_block_type downsample_type upsample_type act_fn resnet_time_scale_shift'
    )
    kinds |= dict.fromkeys(choices.split(), CHOICE) | dict(class_embed_type=without(CHOICE, 'none'))
    kinds |= dict(
        downsample_padding=COUNT, freq_shift=NUMBER, mid_block_scale_factor=POSITIVE, norm_eps=POSITIVE
    )
    kinds['downsample_padding'] = without(COUNT, 'zero', 'true')
    kinds |= dict(
        dropout=SHARE | dict(one=1.0), block_out_channels=without(SHAPE, 'number'), num_train_timesteps={}
    )
    kinds |= dict.fromkeys(('down_block_types', 'up_block_types'), dict(text='x', unknown=('x',), none=None))
    small = dict(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), layers_per_block=1,
                 down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))  # fmt: skip
    yield 'DiffusersUNet', df.DiffusersUNet, small, kinds
    small = dict(
        input_size=8, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2, num_classes=2
    )
    kinds = dict.fromkeys(small, COUNT) | dict(mlp_ratio=POSITIVE, learn_sigma=FLAG)
    yield 'DiT', DiT, small, kinds | dict(class_dropout_prob=SHARE | dict(one=1.0))
    kinds = dict.fromkeys(
        'channels resnet_block_groups learned_sinusoidal_dim attn_dim_head attn_heads'.split(), COUNT
    )
    kinds |= dict.fromkeys('init_dim out_dim image_size'.split(), without(COUNT, 'none'))
    flags = 'self_condition learned_variance learned_sinusoidal_cond random_fourier_features'
    kinds |= dict.fromkeys(flags.split(), FLAG) | dict(dim=COUNT | dict(odd=15), dim_mults=SHAPE)
    kinds |= dict(dropout=SHARE | dict(one=1.0), sinusoidal_pos_emb_theta=POSITIVE | dict(one=1))
    kinds |= dict(full_attn=dict(text='x', number=2, three=(True, True, False)))
    kinds |= dict(version=CHOICE | dict(old='0.21.9', two='2.0'))
    small = dict(dim=8, dim_mults=(1, 2), channels=1)
    yield 'LucidUNet', LucidUNet, small, kinds
    kinds = dict.fromkeys(
        'img_resolution img_channels model_channels num_blocks channels_per_head'.split(), COUNT
    )
    kinds |= dict.fromkeys('channel_mult_noise channel_mult_emb'.split(), without(COUNT, 'none'))
    kinds |= dict(label_dim=without(COUNT, 'zero'), channel_mult=without(SHAPE, 'number'))
    kinds |= dict(attn_resolutions=dict(zero=[0], half=[2.5], text='8'), clip_act=without(POSITIVE, 'none'))
    kinds |= dict.fromkeys('label_balance concat_balance res_balance attn_balance'.split(), SHARE)
    kinds |= dict(dropout=SHARE | dict(one=1.0), resample_filter=dict(text='x', none=None, empty=[], odd=[1]))
    small = dict(img_resolution=8, img_channels=1, model_channels=8, channel_mult=(1, 2), num_blocks=1)
    yield 'EDM2UNet', EDM2UNet, small, kinds


def denoisers():
    "Constructors of denoisers, and what is asked of them"
    net = dict(net=network())
    yield (
        'EDMDenoiser',
        df.EDMDenoiser,
        net,
        dict(net=OBJECT, sigma_data=POSITIVE, P_mean=NUMBER, P_std=POSITIVE),
    )
    kinds = dict(net=OBJECT, beta_d=POSITIVE, beta_min=POSITIVE, M=COUNT, epsilon_t=POSITIVE, expm1=FLAG)
    yield 'VPDenoiser', df.VPDenoiser, net, kinds
    yield 'VEDenoiser', df.VEDenoiser, net, dict(net=OBJECT) | ENDS
    kinds = dict(net=OBJECT, C_1=SHARE | dict(one=1.0, zero=0.0), C_2=POSITIVE, M=COUNT)
    yield 'IDDPMDenoiser', df.IDDPMDenoiser, net, kinds
    kinds = dict(net=OBJECT, scheduler=without(OBJECT, 'none'), prediction=CHOICE, variance=CHOICE, clip=FLAG)
    kinds |= dict(rescale_timesteps=FLAG)
    yield 'DDPMDenoiser', df.DDPMDenoiser, net, kinds
    kinds = dict(net=OBJECT, time_scale=POSITIVE, reverse=FLAG, shift=POSITIVE)
    yield 'FlowDenoiser', df.FlowDenoiser, net, kinds
    given = dict(denoiser=gaussian(), codec=(torch.neg, torch.neg))
    codecs = OBJECT | dict(one=torch.neg, three=(torch.neg,) * 3)
    optional = {name: without(kind, 'none') for name, kind in dict(scale=POSITIVE, shift=NUMBER).items()}
    kinds = dict(denoiser=OBJECT, codec=codecs, batch_size=COUNT) | optional
    yield 'LatentDenoiser', df.LatentDenoiser, given, kinds
    latent = df.LatentDenoiser(**given)
    given = dict(network=network(), prediction='eps', scheduler=df.Scheduler.linear(30))
    kinds = dict(network=OBJECT, prediction=CHOICE, scheduler=OBJECT, null_class=FLAG)
    kinds |= dict(image_shape=SHAPE, num_classes=without(COUNT, 'none'), codec=without(codecs, 'none'))
    kinds |= dict(conditions=PART, label_argument=CHOICE | dict(none='nonsense'), variance=CHOICE)
    yield 'wrap', df.wrap, given, kinds
    images = without(IMAGES, 'none_at_all', 'nan', 'one_nan', 'inf') | SHAPED
    yield 'LatentDenoiser.encode', latent.encode, dict(images=NOISY), dict(images=images)
    yield 'LatentDenoiser.decode', latent.decode, dict(x=NOISY), dict(x=images)
    numbers = dict(nan=torch.full((1, 8, 8), NAN), none=None, text='x', number=3, empty=torch.zeros(0))
    kinds = dict(
        mean=numbers, covariance=dict(negative=-1.0, nan=NAN, text='x', none=None, shape=torch.ones(3))
    )
    yield 'GaussianDenoiser', df.GaussianDenoiser, dict(mean=torch.zeros(1, 8, 8), covariance=1.0), kinds
    kinds = dict(
        images=IMAGES, block=without(COUNT, 'none'), labels=without(LABELS, 'high', 'true'), exact=COUNT
    )
    kinds |= dict(dtype=CHOICE, top_k=without(COUNT, 'none') | dict(high=3))
    kinds |= dict(index=without(COUNT, 'none') | dict(high=65))
    yield 'OptimalDenoiser', df.OptimalDenoiser, dict(images=NOISY), kinds
    patches = dict(even=4, high=17, low=0, text='x', none=None, pairs=[(1.0, 3)], nan=NAN)
    kinds = dict(images=IMAGES, patch=patches, equivariant=FLAG, share=SHARE, seed=SEED, dtype=CHOICE)
    kinds |= dict(block=without(COUNT, 'none'), labels=without(LABELS, 'high', 'true'))
    yield 'PatchDenoiser', df.PatchDenoiser, dict(images=NOISY, patch=3), kinds
    kinds = dict(images=IMAGES, threshold=SHARE, floor=without(POSITIVE, 'zero'), block=COUNT)
    yield 'LocalDenoiser', df.LocalDenoiser, dict(images=NOISY), kinds
    kinds = dict(images=IMAGES, jitter=without(POSITIVE, 'zero'), draws=COUNT, seed=SEED, coordinates=CHOICE)
    yield 'SmoothedDenoiser', df.SmoothedDenoiser, dict(images=NOISY), kinds
    yield 'WienerDenoiser', df.WienerDenoiser, dict(images=NOISY), dict(images=IMAGES)
    some = without(IMAGES, 'none_at_all') | SHAPED  # no image at all has an answer: none
    asked = dict(x=some, sigma=POSITIVE | dict(few=torch.ones(3)), labels=LABELS)
    for name, denoiser in ('Denoiser', gaussian()), ('OptimalDenoiser()', classy()):
        given = dict(x=NOISY, sigma=1.0) | (dict(labels=TWO) if denoiser.num_classes else {})
        yield f'{name}.forward', denoiser.forward, given, asked
        yield f'{name}.predict', denoiser.predict, given, asked
        kinds = asked | dict(sigma=POSITIVE, sigma_next=SHARE | dict(above=2.0), clip=without(FLAG, 'none'))
        yield f'{name}.posterior', denoiser.posterior, given | dict(sigma_next=0.5), kinds
        yield f'{name}.steps', denoiser.steps, dict(n=4), dict(n=COUNT)
        yield f'{name}.grid', denoiser.grid, dict(n=4), dict(n=COUNT)
        given = dict(x0=NOISY) | (dict(labels=TWO) if denoiser.num_classes else {})
        kinds = dict(x0=some, labels=LABELS, sigma=without(POSITIVE, 'none'))
        yield (
            f'{name}.loss',
            denoiser.loss,
            given,
            kinds | dict(noise=dict(text='x', few=NOISY[:1], nan=NOISY * NAN)),
        )
    kinds = asked | dict(k=without(COUNT, 'none') | dict(high=5), mean={})
    yield 'OptimalDenoiser.examine', classy().examine, dict(x=NOISY, sigma=1.0), kinds
    yield (
        'OptimalDenoiser.top',
        classy().top,
        dict(x=NOISY, sigma=1.0, k=2),
        asked | dict(k=COUNT | dict(high=5)),
    )
    yield 'OptimalDenoiser.log_density', classy().log_density, dict(x=NOISY, sigma=1.0), asked
    yield 'OptimalDenoiser.weights', classy().weights, dict(x=NOISY, sigma=1.0), asked


def exact():
    "Data whose denoiser is known"
    small, counts = dict(v=3, m=2, s=2, L=2), dict.fromkeys('vmsL', COUNT)
    kinds = counts | dict(
        m=COUNT | dict(high=4), seed=without(SEED, 'generator') | dict(generator=torch.Generator())
    )
    yield 'RandomHierarchy', df.RandomHierarchy, small, kinds | dict(n_classes=without(COUNT, 'none'))
    tree = df.RandomHierarchy(**small)
    yield 'RandomHierarchy.sample', tree.sample, dict(n=2), dict(n=COUNT, seed=SEED)
    x = tree.encode(tree.sample(2)[0])
    asked = dict(x=dict(nan=x * NAN, none=None, text='x', wide=x[..., :2]), sigma=POSITIVE, labels=LABELS)
    yield 'RandomHierarchy.beliefs', tree.beliefs, dict(x=x, sigma=1.0), asked
    yield (
        'RandomHierarchy.posterior_sample',
        tree.posterior_sample,
        dict(x=x, sigma=1.0),
        asked | dict(seeds=SEEDS),
    )
    kinds = dict.fromkeys(('n_classes', 'ambient_dim', 'class_dim'), COUNT) | dict(seed=SEED, orthogonal=FLAG)
    kinds |= dict(image_shape=without(SHAPE, 'number') | dict(other=(1, 2, 2)))
    yield 'MoLRG', df.MoLRG, dict(n_classes=2, ambient_dim=12, class_dim=2), kinds
    yield 'MoLRG.sample', df.MoLRG(2, 12, 2).sample, dict(n=3), dict(n=COUNT, seed=SEED)


def schedules():
    "Noise levels and noise"
    n, small = COUNT | dict(huge=10**7), dict(n=30)
    for name in 'linear', 'cosine':
        yield f'Scheduler.{name}', getattr(df.Scheduler, name), small, dict(n=n)
    yield 'Scheduler.karras', df.Scheduler.karras, small, dict(n=n, rho=POSITIVE) | ENDS
    optional = {name: without(kind, 'none') for name, kind in ENDS.items()}
    epsilon = dict(epsilon_s=SHARE | dict(zero=0.0, one=1.0))
    yield 'Scheduler.vp', df.Scheduler.vp, small, dict(n=n) | optional | epsilon
    yield 'Scheduler.ve', df.Scheduler.ve, small, dict(n=n) | ENDS
    kinds = dict(n=n, M=n, C_1=epsilon['epsilon_s'], C_2=POSITIVE, sigma_min=without(POSITIVE, 'zero'))
    kinds |= dict(sigma_max=without(POSITIVE, 'none', 'inf'))
    yield 'Scheduler.iddpm', df.Scheduler.iddpm, small, kinds
    yield 'Scheduler.from_sigmas', df.Scheduler.from_sigmas, dict(sigmas=[1.0, 2.0]), dict(sigmas=LEVELS)
    betas = LEVELS | dict(above=[0.1, 1.5], one_early=[1.0, 0.1])
    kinds = dict(betas=betas, zero_terminal_snr=FLAG)
    yield 'Scheduler.from_betas', df.Scheduler.from_betas, dict(betas=[0.1, 0.2]), kinds
    levels = df.Scheduler.linear(30)
    spec = dict(zero=0, many=31, half=2.5, true=True, text='x', nan=NAN, empty=[])
    yield 'Scheduler.respace', levels.respace, dict(spec=5), dict(spec=spec)
    yield 'Scheduler.timestep', levels.timestep, dict(sigma=1.0), dict(sigma=without(POSITIVE, 'inf'))
    yield (
        'Scheduler.sigma_at',
        levels.sigma_at,
        dict(timestep=1.0),
        dict(timestep=NUMBER | dict(high=30, negative=-1)),
    )
    noise = dict(noise=dict(text='x', few=NOISY[:1], none=None))
    t = dict(negative=-1, high=30, half=0.5, true=True, nan=NAN, text='x', none=None, floats=torch.zeros(2))
    x0 = dict(text='x', none=None, number=3)
    yield 'Scheduler.q_sample', levels.q_sample, dict(x0=NOISY, t=3, noise=NOISY), dict(x0=x0, t=t) | noise
    address = without(COUNT, 'zero', 'many') | dict(huge=2**32)
    shape = dict(half=(1, 2.5), text='8', number=8, empty=(), negative=(-1, 8), none=None)
    images = dict(few=[0], negative=[-1, 0], halves=[0.5, 1], number=3, text='ab')
    kinds = dict(shape=shape, seeds=SEEDS, step=address, stream=address, images=images, device={})
    yield 'normal', df.normal, dict(shape=(2, 3)), kinds


def samplers():
    "From noise to images"
    given = dict(denoiser=gaussian(), x=NOISY, sigmas=[2.0, 1.0, 0.0])
    churn = without(POSITIVE, 'zero', 'inf')
    for name in 'ddpm', 'ddim', 'euler', 'heun', 'dpmpp_2m':
        kinds = WALK | dict(
            ddim=dict(eta=SHARE), heun=dict.fromkeys(('S_churn', 'S_noise', 'S_min'), churn)
        ).get(name, {})
        yield name, walk(getattr(df, name)), given, kinds
    kinds = dict(
        denoiser=OBJECT,
        shape_or_x=SHAPE | dict(number=0, wide=(2, 1, 8, 4), minus=-1, half_=2.5, none=None, nan=NOISY * NAN),
    )
    kinds |= dict(
        sampler=CHOICE,
        steps=COUNT,
        seeds=SEEDS,
        labels=LABELS,
        guidance=NUMBER | dict(strong=2.0),
        batch_size=COUNT,
    )
    kinds |= dict(scheduler=without(OBJECT, 'none'), noise=CHOICE, progress=FLAG, callback={}, eta=SHARE)
    yield (
        'sample',
        df.sample,
        dict(denoiser=gaussian(), shape_or_x=2, steps=2, sampler='ddim', progress=False),
        kinds,
    )
    given = dict(denoiser=classy(), shape_or_x=2, steps=2, labels=TWO, progress=False)
    yield (
        'sample of classes',
        df.sample,
        given,
        dict(labels=LABELS | dict(large=7, minus=-1), guidance=NUMBER),
    )
    kinds = dict(
        denoiser=OBJECT,
        data=without(IMAGES, 'complex') | SHAPED,
        n=COUNT | dict(one=1),
        seeds=SEEDS,
        steps=COUNT,
        sampler=CHOICE | dict(random='ddpm'),
        labels=LABELS,
        scheduler=without(OBJECT, 'none'),
        batch_size=COUNT,
        progress=FLAG,
    )
    given = dict(denoiser=gaussian(), data=NOISY, n=2, steps=2, progress=False)
    yield 'gaussian_structure', df.gaussian_structure, given, kinds
    common = dict(
        denoiser=OBJECT, x0=PIXELS | SHAPED, steps=COUNT, sampler=CHOICE, seeds=SEEDS, labels=LABELS
    )
    common |= dict(
        convention=CHOICE, scheduler=without(OBJECT, 'none'), independent=FLAG, clip=without(FLAG, 'none')
    )
    common |= dict(batch_size=without(COUNT, 'none'), guidance=NUMBER | dict(strong=2.0))
    common |= dict(noise=PART)
    given = dict(denoiser=gaussian(), x0=NOISY, steps=3)
    level = without(COUNT, 'zero', 'many') | dict(high=4)
    yield (
        'forward_backward',
        df.forward_backward,
        given | dict(step_reverse=2),
        common | dict(step_reverse=level),
    )
    reverse = dict(high=[4], negative=[-1], half=[0.5], nan=[NAN], empty=[], text='x', number=2, words=['a'])
    kinds = common | dict(steps_reverse=reverse, progress=FLAG, callback={})
    yield 'sweep', df.sweep, given | dict(steps_reverse=[0, 3]), kinds
    yield 'even_levels', df.even_levels, dict(steps=10), dict(steps=COUNT, count=COUNT | dict(one=1))
    strip = df.sweep(gaussian(), NOISY, [0, 2], 3).strip
    kinds = dict(image=without(COUNT, 'zero') | dict(high=2), scale=without(COUNT, 'none'))
    kinds |= dict(levels=without(COUNT, 'none'))
    yield 'Sweep.strip', strip, {}, kinds
    one = torch.ones(3)
    spectrum = dict(
        nan=one * NAN,
        inf=one * INF,
        negative=-one,
        empty=one[:0],
        rows=torch.zeros(0, 3),
        none=None,
        text='x',
    )
    kinds = dict(
        spectrum=spectrum | dict(columns=torch.zeros(3, 0), cube=torch.ones(2, 2, 2)),
        energy=SHARE | dict(one=1.0, zero=0.0),
    )
    yield 'numerical_rank', df.numerical_rank, dict(spectrum=one), kinds
    kinds = dict(
        denoiser=OBJECT,
        x=IMAGES | SHAPED,
        sigma=POSITIVE | dict(few=torch.ones(3)),
        k=without(COUNT, 'none') | dict(high=65),
    )
    kinds |= dict(
        labels=LABELS,
        vectors=FLAG,
        iterations=without(COUNT, 'zero'),
        probes=COUNT | dict(one=1),
        chunk=COUNT,
    )
    kinds |= dict(energy=without(SHARE, 'none') | dict(one=1.0, zero=0.0))
    yield 'jacobian_spectrum', df.jacobian_spectrum, dict(denoiser=gaussian(), x=NOISY, sigma=1.0), kinds
    given = dict(denoiser=gaussian(), x=NOISY, sigma=1.0)
    kinds = {name: kinds[name] for name in ('denoiser', 'x', 'sigma', 'labels', 'chunk')}
    kinds |= dict(probes=without(COUNT, 'none') | dict(one=1), seed=SEED)
    yield 'posterior_covariance', df.posterior_covariance, given, kinds
    kinds |= dict(method=CHOICE, draws=without(COUNT, 'none') | dict(some=256))
    yield 'intrinsic_dimension', df.intrinsic_dimension, given, kinds
    kinds = {'draws': without(COUNT, 'none') | dict(few=63)}
    yield 'intrinsic_dimension of ranks', df.intrinsic_dimension, given | dict(method='ranks'), kinds
    kinds = dict(
        denoiser=OBJECT,
        x=IMAGES | SHAPED,
        method=CHOICE,
        labels=LABELS,
        sigma_min=without(POSITIVE, 'none') | dict(above=81.0),
        sigma_max=without(POSITIVE, 'none') | dict(below=0.001),
    )
    kinds |= dict(
        steps=COUNT | dict(one=1),
        probes=without(COUNT, 'none') | dict(one=1),
        dequantise=FLAG,
        seeds=SEEDS,
        chunk=COUNT,
    )
    yield 'log_likelihood', df.log_likelihood, dict(denoiser=gaussian(), x=NOISY, steps=2, probes=2), kinds


def studies():
    "Features, scores, codes, sets and training: rooms below the sweeps"
    kept = torch.linspace(1, 0.1, 6)[:, None].expand(6, 30).numpy()
    kinds = dict(
        levels=dict(nan=[NAN] * 6, few=[0, 1], falling=range(6, 0, -1), text='x', none=None), seed=SEED
    )
    kinds |= dict(
        kept=dict(nan=kept * NAN, high=kept * 9, low=-kept, flat=kept[0], text='x', none=None)
    )  # all kept: right, and answered by NaN with a reason
    kinds |= dict(chance=SHARE | dict(one=1.0), bootstrap=COUNT | dict(few=19))
    given = dict(levels=np.linspace(0, 1, 6), kept=kept, chance=0.1, bootstrap=20)
    yield 'fit_transition', df.fit_transition, given, kinds
    changes = np.arange(12.0).reshape(6, 2) % 5
    kinds = dict(
        changes=dict(nan=changes * NAN, flat=changes[0], one=changes[:1], text='x', none=None, number=3),
        positions=dict(few=[0], nan=[0, NAN], unknown='pixels', number=3),
        starts=dict(few=[0, 0], halves=[0.5] * 6, alone=range(6), text='x', number=3),
        metric=without(CHOICE, 'none'),
        bins=without(COUNT, 'none'),
        patch=COUNT | dict(more=2),
        levels=dict(any=[1.0, 2.0], number=3, text='x'),
        bootstrap=COUNT | dict(few=19),
        seed=SEED,
    )
    yield 'susceptibility', df.susceptibility, dict(changes=changes), kinds
    for name, (first, second) in dict(
        rp_score='ab', m_score=('samples', 'train'), gl_score=('samples', 'train')
    ).items():
        kinds = {
            first: FEATURES,
            second: FEATURES,
            'threshold': without(NUMBER, 'none') | dict(high=1.5),
            'extract': {},
        }
        yield name, getattr(df, name), {first: unit(), second: unit()}, kinds
    kinds = dict(a=OBJECT, b=OBJECT, images=without(IMAGES, 'whole') | SHAPED, seeds=without(SEEDS, 'none'))
    kinds |= dict(sigmas=without(LEVELS, 'number'), labels=without(LABELS, 'none'), batch_size=COUNT)
    given = dict(a=gaussian(), b=gaussian(), images=NOISY, sigmas=[0.5, 1.0])
    yield 'denoiser_agreement', df.denoiser_agreement, given, kinds
    kinds = dict.fromkeys('ab', OBJECT) | dict(
        n=COUNT | dict(one=1),
        seeds=without(SEEDS, 'none'),
        features=dict(number=3, text='x', empty=[]),
        steps=COUNT,
        sampler=CHOICE | dict(random='ddpm'),
        labels=LABELS,
        scheduler=without(OBJECT, 'none'),
        batch_size=COUNT,
        progress=FLAG,
    )
    given = dict(a=gaussian(), b=gaussian(), n=2, steps=2, progress=False)
    yield 'flow_distance', df.flow_distance, given, kinds
    kinds = dict.fromkeys('ab', FEATURES | dict(few=unit()[:3]))
    yield 'flow_distance of samples', df.flow_distance, dict(a=unit(), b=unit()), kinds
    kinds = dict(
        backbone=CHOICE, dims=COUNT, p=POSITIVE, threshold=without(NUMBER, 'none'), preprocess=PART, card=PART
    )
    yield 'SSCD', df.SSCD, dict(backbone='small', dims=4), kinds
    kinds = dict(images=PIXELS, model=OBJECT, batch_size=COUNT, seeds=without(SEEDS, 'none'), progress=FLAG)
    kinds |= dict(
        out=PATH,
        device={},
        shard=dict(
            high=(2, 2), text='x', none=None, negative=(-1, 1), half=(0.5, 1), many=(0, 1, 2), alone=(0, 2)
        ),
        callback={},
        restart=FLAG,
    )
    yield (
        'sscd_features',
        df.sscd_features,
        dict(images=df.normal((2, 1, 28, 28)).clamp(-1, 1), model=descriptor()),
        kinds,
    )
    kinds = (
        dict(
            k=NUMBER | dict(negative=-1.0),
            in_channels=COUNT,
            probabilistic=FLAG,
            depth=COUNT,
            time_scale=POSITIVE,
        )
        | ENDS
    )
    yield 'TimeEncoder', df.TimeEncoder, dict(k=0.5, in_channels=1, depth=10), kinds
    times = dict(falling=[1.0, 0.0], high=[2.0], nan=[NAN], empty=[], text='x', none=None, number=0.5)
    kinds = dict(encoder=OBJECT, images=PIXELS, times=times, batch_size=COUNT, out=PATH, progress=FLAG)
    yield 'trajectory_codes', df.trajectory_codes, dict(encoder=encoder(), images=NOISY, times=[0.5]), kinds
    kinds = dict(
        denoiser=OBJECT, images=PIXELS | SHAPED, sigmas=LEVELS, batch_size=COUNT, seeds=SEED, labels=LABELS
    )
    kinds |= dict(layer=without(CHOICE, 'none'), first=without(COUNT, 'zero'))
    given = dict(denoiser=df.EDMDenoiser(network()), images=NOISY, sigmas=[1.0])
    yield 'unet_features', df.unet_features, given, kinds
    z = dict(nan=codes() * NAN, flat=codes()[0, 0], none=None, text='x', empty=codes(0))
    kinds = dict(codes=z, estimator=CHOICE, noise=NUMBER | dict(negative=-1.0), seed=SEED)
    ksg = dict(k=COUNT, parts=COUNT)
    mine = dict(batch_size=COUNT, hidden=COUNT, lr=POSITIVE, window=COUNT, alike=FLAG, miss=FLAG)
    mine |= dict(steps=without(COUNT, 'none'))
    given = dict(codes=codes(40), estimator='gaussian')
    yield 'mutual_information', df.mutual_information, given, kinds | ksg | mine | dict(device={})
    given = dict(codes=codes(40), estimator='ksg', parts=2)
    yield 'mutual_information of neighbours', df.mutual_information, given, ksg
    given = dict(codes=codes(40), estimator='mine', steps=2, batch_size=8, hidden=4, window=2, miss=False)
    yield 'mutual_information of critics', df.mutual_information, given, mine
    y = torch.arange(12) % 2
    kinds = dict(codes=z, labels=dict(few=y[:5], floats=y / 2, negative=-y, text='x', none=None))
    settings = dict(hidden=dict(negative=-2, half=2.5, nan=NAN, text='x'), seeds=COUNT, epochs=COUNT)
    settings |= dict(batch_size=COUNT, dropout=SHARE, weight_decay=NUMBER | dict(negative=-1.0))
    settings |= dict(
        lrs=dict(zero=(0.0,), nan=(NAN,), empty=(), text='x'), validation=SHARE, standardise=FLAG
    )
    for name in 'SingleTime', 'MeanMixer', 'ConcatMixer', 'GRUMixer', 'TransformerMixer':
        own = (
            dict(heads=COUNT, iterations=COUNT, mask=dict(high=5, text='x'))
            if name == 'TransformerMixer'
            else {}
        )
        given = dict(codes=codes(), labels=y, hidden=8, seeds=1, epochs=1)
        yield name, fitted(getattr(df, name)), given, kinds | (settings if name == 'SingleTime' else own)
    kinds = dict(
        denoiser=OBJECT,
        counts=dict(negative=-1, half=0.5, text='x', none=None, few=[1]),
        seed=SEED,
        sampler=CHOICE,
    )
    kinds |= dict(steps=COUNT, guidance=NUMBER, batch_size=COUNT, classes={}, progress=FLAG)
    kinds |= dict(scheduler=without(OBJECT, 'none'), noise=CHOICE, callback={})
    yield 'labelled_samples', df.labelled_samples, dict(denoiser=classy(), counts=1, steps=1), kinds
    sets = dict(text='no-such-set', none=None, number=3)
    kinds = dict(
        real_train=sets,
        synthetic=sets,
        real_test=sets,
        protocol=CHOICE,
        epochs=POSITIVE,
        seeds=COUNT,
        metric=CHOICE,
    )
    kinds |= dict(
        counts=dict(negative=[-1], half=[0.5], high=[10**6], text='x', none=None, number=20),
        steps=without(COUNT, 'none'),
        callback={},
        out=PATH,
        restart=FLAG,
        on_start={},
    )
    kinds |= dict(classifier=CHOICE, augmentation=CHOICE, batch_size=COUNT, lr=POSITIVE, dtype=CHOICE)
    kinds |= dict(momentum=SHARE, weight_decay=NUMBER | dict(negative=-1.0), device={})
    half = digits()
    given = dict(
        real_train=half[:30], synthetic=half[:30], real_test=half[30:], steps=1, seeds=1, protocol='steps'
    )
    yield 'classification_accuracy_score', df.classification_accuracy_score, given, kinds
    other = dict(number=3, text='x', empty=[])
    kinds = dict(denoiser=OBJECT, images=PIXELS | SHAPED, settings=other, mixed_precision=CHOICE)
    kinds |= dict(out=without(other, 'text'), resume=without(FLAG, 'text') | dict(half={'step': 1}))
    every = without(COUNT, 'none', 'empty')  # after none of the steps is right, and None: never
    kinds |= dict(save_every=without(COUNT, 'empty'), sample_every=every, snapshot_every=every)
    kinds |= dict(compile=FLAG, progress=FLAG, workers=without(COUNT, 'zero'), callback=other, snapshot=other)
    kinds |= dict(opened=other)
    kinds |= dict.fromkeys(('preview', 'card'), other) | dict(
        numbered=without(other, 'text') | dict(flag=True)
    )
    kinds |= dict.fromkeys(
        ('snapshots', 'dumps'), other | dict(word={'x': 'a'}, half={0.5: 'a'}, name={1: 2})
    )
    kinds |= dict(log_with=dict(unknown='x', number=3, several=['x']), dtype=without(CHOICE, 'none'))
    kinds |= dict(steps=COUNT, batch_size=COUNT, lr=POSITIVE, seed=SEED)
    least = without(NUMBER, 'inf') | dict(negative=-1.0)  # from 0 on
    kinds |= dict.fromkeys(('lr_rampup', 'ema_halflife', 'weight_decay'), least)
    kinds |= dict.fromkeys(('cooldown', 'eps', 'label_dropout', 'augment'), SHARE)
    kinds |= dict(warmup=without(COUNT, 'zero'), accumulate=COUNT | dict(more=3), ema_rampup=FLAG)
    kinds |= dict(betas=dict(one=(0.9,), high=(0.9, 1.0), number=0.9, text='x', none=None))
    kinds |= dict(grad_clip=without(POSITIVE, 'inf'), ema_w=without(SHARE, 'none'))
    kinds |= dict(optimizer=CHOICE, levels=CHOICE)
    given = dict(denoiser=df.EDMDenoiser(network()), images=NOISY, steps=1, batch_size=2, progress=False)
    yield 'train', df.train, given, kinds


def files():
    "Sets, weights and pictures"
    kinds = dict(
        name_or_path=dict(unknown='no-such-set', none=None, number=3), size=without(COUNT, 'none'), seed=SEED
    )
    kinds |= dict(
        channels=dict(two=2, zero=0, text='x', half=1.5, true=True),
        max_images=without(COUNT, 'none'),
        split=without(CHOICE, 'none'),
        orient=FLAG,
    )
    yield 'load_images', df.load_images, dict(name_or_path='digits', max_images=2), kinds
    kinds = dict(
        images=without(IMAGES, 'whole'),
        labels=dict(few=[0], halves=[0.5, 1.5], text='x', number=3, nan=[NAN, 0.0], negative=[-1, 0]),
        names=dict(few=['a'], number=3, text='ab'),
    )
    given = dict(images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    yield 'ImageSet', df.ImageSet, given, kinds | dict(classes=dict(number=3, text='ab'))
    yield 'ImageSet.of', df.ImageSet.of, dict(images=NOISY), dict(images=PIXELS)
    pictures = without(PIXELS, 'bright', 'none_at_all')
    kinds = dict(
        images=pictures,
        titles=dict(few=['a'], number=3, text='ab'),
        columns=without(COUNT, 'none'),
        scale=without(COUNT, 'none'),
    )
    yield 'show_images', df.show_images, dict(images=NOISY), kinds
    kinds = dict(
        what=dict(unknown='no-such-model', none=None, number=3),
        key=dict(unknown='no-such-key', number=3),
        prediction=without(CHOICE, 'none'),
        hash=dict(other='00', number=3, empty='', text='x'),
    )
    kinds |= dict(dtype=without(CHOICE, 'none'), channels_last=FLAG, codec=without(OBJECT, 'none'))
    yield 'load_denoiser', df.load_denoiser, dict(what='mnist'), kinds
    kinds = dict(
        denoiser=OBJECT | dict(exact=gaussian()),
        path=dict(none=None, number=3),
        dtype=without(CHOICE, 'none'),
    )
    given = dict(denoiser=df.EDMDenoiser(network()), path='wrong.safetensors')
    yield 'save', df.save, given, kinds | dict(card=dict(text='x', number=3))
    yield 'export', df.export, given, kinds | dict(format=CHOICE)


def explorers():
    "Widgets"
    kinds = dict(
        denoiser=OBJECT,
        images=PIXELS,
        steps=COUNT,
        sampler=CHOICE,
        seed=without(SEED, 'generator'),
        image=dict(high=2, negative=-1),
    )
    kinds |= dict(levels=without(COUNT, 'none') | dict(high=3), convention=CHOICE, independent=FLAG)
    kinds |= dict(
        step_reverse=without(COUNT, 'none', 'zero') | dict(high=3), scheduler=without(OBJECT, 'none')
    )
    kinds |= dict(label=dict(high=3, half=0.5), thumbnails=COUNT, background={}, panels={}, notes={})
    given = dict(denoiser=gaussian(), images=NOISY, steps=2, background=False)
    yield 'SweepExplorer', df.SweepExplorer, given, kinds


CASES = denoisers, networks, exact, schedules, samplers, studies, files, explorers
OFFERED_CHOICES = (
    'CompareExplorer DirectionExplorer NeighbourExplorer SyntheticExplorer TrajectoryExplorer'.split()
)
# By what else a message may name an argument: an image set or a model that nobody knows, by what it is not
ALIASES = dict(
    name_or_path='name_or_path|image set',
    name='name|neither a file nor a model',
    shape_or_x='shape|x|n',
    steps_reverse='steps?_reverse',
    spec='spec|respacing',
    images='images|x0|image set',
)


@cache
def cases():
    "Every callable by name: the function, arguments that are right, and the kind of wrong ones for each"
    return {name: (call, right, kinds) for group in CASES for name, call, right, kinds in group()}


def outcome(call, right, name, wrong):
    "Name what a wrong argument leads to: silent, named, unnamed, or the error that it must not be"
    try:
        call(**right | {name: wrong})
    except ALLOWED as error:
        words = ALIASES.get(name, re.escape(name))
        file = isinstance(error, FileNotFoundError) and str(wrong) in str(error)
        return (
            'named'
            if file or re.search(rf'\b({words})\b', str(error))
            else f'unnamed {type(error).__name__}: {error}'
        )
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return 'silent'


@cache
def outcomes(case):
    "What each wrong argument of a callable leads to"
    call, right, kinds = cases()[case]
    call(**right)
    return {
        f'{name}: {word}': outcome(call, right, name, wrong)
        for name, kind in kinds.items()
        for word, wrong in kind.items()
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


NAMES = sorted(cases())


@pytest.mark.parametrize('case', NAMES)
def test_wrong_arguments_are_refused(case):
    found = {
        word: result for word, result in outcomes(case).items() if not result.startswith(('named', 'unnamed'))
    }
    assert not found


def test_messages_name_the_argument():
    "Of 500 wrong arguments and more at most one in twenty is refused by an error without its name."
    results = [r for case in NAMES for r in outcomes(case).values()]
    unnamed = [r for r in results if r.startswith('unnamed')]
    assert len(results) > 500 and len(unnamed) <= 0.05 * len(results), unnamed


def test_everything_is_tried():
    "Whatever is offered at the front door is in the table, with every argument."
    tried = {name.split('.')[0] for name in NAMES} | set(OFFERED_CHOICES) | {'Sweep', 'Scheduler'}
    assert set(df.__all__) - tried - {'__version__'} == set()
    missing = {}
    for name in NAMES:
        call, _, kinds = cases()[name]
        parameters = inspect.signature(call).parameters.values()
        known = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if known - set(kinds) and ' of ' not in name:  # one more of what is tried already
            missing[name] = known - set(kinds)
    assert not missing
