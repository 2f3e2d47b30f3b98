"Files of denoising_diffusion_pytorch: what they say, what they give away, and what has to be given."

import pytest
import torch
from PIL import Image

from difflow import Scheduler, export, load_denoiser, save
from difflow.checkpoints import describe
from difflow.denoisers import p_mean_variance
from difflow.networks import LucidUNet
from golden import fill, wave

SMALL = dict(dim=16, dim_mults=(1, 2), channels=1)
OBJECTIVES = dict(pred_noise='eps', pred_x0='x0', pred_v='v')


def tables(objective='pred_v', gamma=None, steps=1000):
    "Return the tables of a chain that stand beside a network."
    betas = Scheduler.linear(steps).betas
    signal = torch.cumprod(1 - betas, 0)
    snr = signal / (1 - signal)
    clipped = snr if gamma is None else snr.clamp(max=gamma)
    weight = dict(pred_noise=clipped / snr, pred_x0=clipped, pred_v=clipped / (snr + 1))[objective]
    found = dict(betas=betas, alphas_cumprod=signal, loss_weight=weight)
    return {name: table.float() for name, table in found.items()}


def diffusion(net, **options):
    "Return the state dict of a `GaussianDiffusion` around `net`."
    return tables(**options) | {f'model.{name}': t for name, t in net.state_dict().items()}


def trained(net, version='2.3.4', online=True, **options):
    "Return what `Trainer.save` writes, with weights a tenth smaller as the averaged ones."
    raw = diffusion(net, **options)
    averaged = {name: t * 0.9 if name.startswith('model.') else t for name, t in raw.items()}
    ema = dict(initted=torch.tensor(True), step=torch.tensor(1000))
    ema |= {f'ema_model.{name}': t for name, t in averaged.items()}
    if online:
        ema |= {f'online_model.{name}': t.clone() for name, t in raw.items()}
    return dict(
        step=1000, model=raw, opt=dict(state={}, param_groups=[]), ema=ema, scaler=None, version=version
    )


def written(tmp_path, contents, name='model-1.pt'):
    torch.save(contents, tmp_path / name)
    return tmp_path / name


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    for i in range(100):
        Image.new('L', (8, 8), i).save(folder / f'{i}.png')
    return folder


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('options', [dict(), dict(min_snr_loss_weight=True), dict(beta_schedule='linear')])
def test_files_of_the_librarys_trainer(objective, options, images, tmp_path):
    library = pytest.importorskip('denoising_diffusion_pytorch')
    torch.manual_seed(0)
    model = library.GaussianDiffusion(
        library.Unet(**SMALL), image_size=8, timesteps=200, objective=objective, **options
    )
    trainer = library.Trainer(
        model, images, train_batch_size=16, results_folder=tmp_path, calculate_fid=False, num_samples=4
    )
    with torch.no_grad():
        for p in trainer.ema.ema_model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    trainer.save(1)
    for key, expected in [(None, trainer.ema.ema_model), ('model', model), ('online_model', model)]:
        d = load_denoiser(tmp_path / 'model-1.pt', key=key, image_size=8)
        assert d.prediction == OBJECTIVES[objective] and len(d.scheduler) == 200
        assert ('averaged' in d.card['weights']) == (key is None)
        expected.eval()
        for t in (0, 57, 199):
            sigma = d.scheduler.sigmas[t]
            x = torch.randn(2, 1, 8, 8) * (1 + sigma.float())
            scaled = x / (1 + sigma.float() ** 2).sqrt()
            with torch.no_grad():
                theirs = expected.model_predictions(scaled, torch.tensor([t, t])).pred_x_start
                assert difference(d(x, sigma), theirs) < 1e-4


def test_a_learned_variance_of_the_library(tmp_path):
    library = pytest.importorskip('denoising_diffusion_pytorch')
    torch.manual_seed(0)
    model = library.LearnedGaussianDiffusion(
        library.Unet(**SMALL, learned_variance=True), image_size=8, timesteps=100
    ).eval()
    d = load_denoiser(written(tmp_path, model.state_dict()), image_size=8)
    assert (d.prediction, d.variance_type) == ('eps', 'learned_range')  # its loss_weight is that of 'pred_v'
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 40, 99])
    with torch.no_grad():
        mean, variance, _, x0 = model.p_mean_variance(x=x, t=t, clip_denoised=False)
        ours = p_mean_variance(d, x, t, clip=False)
    assert difference(ours['mean'], mean) < 1e-4 and difference(ours['pred_xstart'], x0) < 1e-4
    later = slice(1, None)  # at step 0 nothing is drawn: theirs is 1e-20 there
    assert difference(ours['log_variance'][later], variance[later].log()) < 1e-4


def test_elucidated_diffusion_is_edms_preconditioning(tmp_path):
    library = pytest.importorskip('denoising_diffusion_pytorch')
    torch.manual_seed(0)
    net = library.Unet(**SMALL, learned_sinusoidal_cond=True)
    model = library.ElucidatedDiffusion(net, image_size=8, channels=1).eval()
    path = written(tmp_path, dict(model=model.state_dict()))
    d = load_denoiser(path, prediction='edm', image_size=8)
    assert d.sigma_data == 0.5 and d.assumed == dict(sigma_data=0.5)
    x, sigma = 3 * torch.randn(2, 1, 8, 8), torch.tensor([0.3, 5.0])
    with torch.no_grad():
        assert difference(d(x, sigma), model.preconditioned_network_forward(x, sigma)) < 1e-4
    with pytest.raises(ValueError, match="is that of ElucidatedDiffusion, prediction='edm'"):
        load_denoiser(path, prediction='eps', schedule='linear', image_size=8)
    with pytest.raises(ValueError, match='give image_size=, prediction='):
        load_denoiser(path)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda net: trained(net),
        lambda net: trained(net, online=False),
        lambda net: diffusion(net),
        lambda net: {f'module.{name}': t for name, t in diffusion(net).items()},
        lambda net: dict(epoch=3, state_dict=diffusion(net), optimizer=dict(state={})),
        lambda net: {f'_orig_mod.{name}': t for name, t in diffusion(net).items()},
        lambda net: (
            {f'ema_model.{name}': t for name, t in diffusion(net).items()} | dict(step=torch.tensor(1))
        ),
    ],
)
def test_wrappers(wrap, tmp_path):
    net = fill(LucidUNet(**SMALL))
    contents = wrap(net)
    d = load_denoiser(written(tmp_path, contents), image_size=16)
    factor = 0.9 if 'opt' in contents else 1
    for name, tensor in net.state_dict().items():
        assert torch.allclose(d.net.state_dict()[name], factor * tensor), name
    assert d.prediction == 'v' and d.image_shape == (1, 16, 16)
    expected = Scheduler.from_betas(Scheduler.linear(1000).betas.float().tolist()).sigmas
    assert torch.allclose(d.scheduler.sigmas, expected, rtol=1e-12)


def test_the_raw_weights_are_taken_by_their_place(tmp_path):
    net = fill(LucidUNet(**SMALL))
    path = written(tmp_path, trained(net))
    for key in ('model', 'model.model', 'online_model', 'ema.online_model.model'):
        d = load_denoiser(path, key=key, image_size=16)
        assert torch.equal(d.net.init_conv.weight, net.init_conv.weight), key
    for key in (None, 'ema', 'ema_model', 'ema.ema_model.model'):
        d = load_denoiser(path, key=key, image_size=16)
        assert torch.equal(d.net.init_conv.weight, 0.9 * net.init_conv.weight), key


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('gamma', [None, 5, 1])
def test_the_weight_of_the_loss_gives_the_prediction_away(objective, gamma, tmp_path):
    net = fill(LucidUNet(**SMALL))
    path = written(tmp_path, trained(net, objective=objective, gamma=gamma))
    right = OBJECTIVES[objective]
    d = load_denoiser(path, image_size=16)
    assert d.prediction == right and d.card['prediction'] == f'{right}, by the weight of its loss'
    assert load_denoiser(path, image_size=16, prediction=right).prediction == right
    for wrong in {'eps', 'x0', 'v'} - {right}:
        with pytest.raises(ValueError, match=f"prediction is '{right}' in the file .*, got '{wrong}'"):
            load_denoiser(path, image_size=16, prediction=wrong)


def test_without_it_the_prediction_is_asked_for(tmp_path):
    net = fill(LucidUNet(**SMALL))
    contents = diffusion(net)
    contents['p2_loss_weight'] = torch.ones_like(
        contents.pop('loss_weight')
    )  # before 1.5.0, of any objective
    path = written(tmp_path, contents)
    with pytest.raises(ValueError, match='give prediction=$'):
        load_denoiser(path, image_size=16)
    assert load_denoiser(path, image_size=16, prediction='x0').prediction == 'x0'
    for wrong in ('edm', 'flow', 've'):
        with pytest.raises(ValueError, match='prediction'):
            load_denoiser(path, image_size=16, prediction=wrong)
    with pytest.raises(ValueError, match='give no schedule'):
        load_denoiser(path, image_size=16, prediction='x0', schedule='linear')


@pytest.mark.parametrize(
    'version', ['0.25.3', '0.26.4', '0.31.1', '0.32.2', '1.7.1', '1.7.3', '1.7.9', '1.8.2']
)
def test_the_version_in_the_file_is_used(version, tmp_path):
    net = fill(LucidUNet(**SMALL, version=version))
    path = written(tmp_path, trained(net, version=version))
    d = load_denoiser(path, image_size=16, key='model')
    assert d.net.config['version'] == version == d.card['version']
    assert d.assumed == dict(sinusoidal_pos_emb_theta=10000, resnet_block_groups=8)
    x, t = wave((2, 1, 16, 16)), torch.tensor([3, 700])
    with torch.inference_mode():
        assert torch.equal(d.net(x, t), net(x, t))
    with pytest.raises(ValueError, match=f"version is '{version}' in the file, got '2.0.0'"):
        load_denoiser(path, image_size=16, version='2.0.0')


@pytest.mark.parametrize(
    'version, words',
    [
        ('0.26.2', '0.22.0 or later, before 0.26.5'),
        ('0.27.5', '0.26.5 or later, before 0.32.0'),
        ('1.7.5', '0.32.0 or later, before 1.8.0'),
    ],
)
def test_a_version_that_no_name_shows_is_asked_for(version, words, tmp_path):
    net = fill(LucidUNet(**SMALL, version=version))
    path = written(tmp_path, diffusion(net))
    with pytest.raises(ValueError, match=rf'give version= \(of denoising_diffusion_pytorch, {words}\)$'):
        load_denoiser(path, image_size=16)
    assert load_denoiser(path, image_size=16, version=version).net.config['version'] == version
    with pytest.raises(ValueError, match=f'version 2.0.0 has other weights, these are of {words}'):
        load_denoiser(path, image_size=16, version='2.0.0')


def test_heads_that_no_weight_shows_are_asked_for(tmp_path):
    net = fill(LucidUNet(**SMALL, version='1.8.9', attn_heads=8, attn_dim_head=16))
    path = written(tmp_path, trained(net, version='1.8.9'))
    with pytest.raises(ValueError, match='give attn_heads=$'):
        load_denoiser(path, image_size=16)
    d = load_denoiser(path, image_size=16, attn_heads=8, key='model')
    assert d.net.config['attn_dim_head'] == [16, 16]
    x, t = wave((2, 1, 16, 16)), torch.tensor([3, 700])
    with torch.inference_mode():
        assert torch.equal(d.net(x, t), net(x, t))


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(channels=3, init_dim=24, dim_mults=(1, 3, 2)),
        dict(self_condition=True),
        dict(dim_mults=(2,), full_attn=True),
        dict(full_attn=(True, False), attn_heads=(2, 3), attn_dim_head=(8, 4)),
        dict(learned_variance=True, version='1.9.3'),
    ],
)
def test_the_architecture_is_in_the_shapes(options, tmp_path):
    net = fill(LucidUNet(**SMALL | options))
    path = written(tmp_path, diffusion(net))
    d = load_denoiser(path, image_size=16)
    x, t = wave((2, net.config['channels'], 16, 16)), torch.tensor([3, 700])
    with torch.inference_mode():
        assert torch.equal(d.net(x, t), net(x, t))
    assert ('self_condition' in d.card) == net.config['self_condition']
    facts = describe(path, image_size=16)
    assert facts['format'] == 'lucidrains Unet' and facts['missing'] == []
    assert facts['image_shape'] == [net.config['channels'], 16, 16]


def test_what_was_loaded_is_saved_and_loaded_again(tmp_path):
    d = load_denoiser(written(tmp_path, trained(fill(LucidUNet(**SMALL)))), image_size=16)
    x, sigma = wave((2, 1, 16, 16)), torch.tensor([0.3, 5.0])
    rest = dict(image_size=16, prediction='v', scheduler=d.scheduler)
    copies = [(save(d, tmp_path / 'a.safetensors'), {}), (export(d, tmp_path / 'b.safetensors'), rest)]
    copies.append((written(tmp_path, d.state_dict(), 'c.pt'), rest))
    for path, options in copies:
        with torch.inference_mode():
            assert torch.equal(load_denoiser(path, **options)(x, sigma), d(x, sigma)), path


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s | {'final_conv.weight': torch.ones(4, 16, 1, 1)}, 'weighted objective'),
        (lambda s: s | {'final_conv.weight': torch.ones(5, 16, 1, 1)}, 'need 1 or 2 outputs'),
        (lambda s: s | {'null_classes_emb': torch.ones(16)}, 'classifier_free_guidance'),
        (lambda s: s | {'final_conv.bias': torch.tensor([float('nan')])}, 'not finite'),
        (lambda s: {n: t for n, t in s.items() if n != 'mid_block1.block1.proj.weight'}, '1 missing'),
        (lambda s: {n: t for n, t in s.items() if 'downs' not in n}, 'no Unet of lucidrains'),
        (lambda s: s | {'downs.9999999999.0.block1.proj.weight': torch.ones(1)}, 'no Unet of lucidrains'),
        (lambda s: s | {'downs.x.3.weight': torch.ones(1)}, 'no Unet of lucidrains'),
        (lambda s: s | {'time_mlp.3.weight': torch.ones(1, 1)}, 'no Unet of lucidrains'),
    ],
)
def test_networks_that_are_no_denoiser_of_images(change, message, tmp_path):
    path = written(tmp_path, change(fill(LucidUNet(**SMALL)).state_dict()))
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(path, image_size=16, prediction='eps', schedule='linear')
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'betas', [torch.full((200_000,), 1e-4), torch.tensor([0.1, 1.5]), torch.tensor([float('nan')] * 3)]
)
def test_tables_that_are_no_chain(betas, tmp_path):
    path = written(tmp_path, diffusion(fill(LucidUNet(**SMALL))) | dict(betas=betas))
    with pytest.raises(ValueError, match='betas must be'):
        load_denoiser(path, image_size=16, prediction='eps')
