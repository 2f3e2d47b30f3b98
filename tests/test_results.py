"""What leaves the library can be learned from: no result is a tensor of inference mode."""

import dataclasses
import importlib
import pickle
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import nn

import difflow as df
from difflow import (
    checkpoints,
    data,
    denoisers,
    features,
    jacobians,
    networks,
    noise,
    representations,
    reproducibility,
    samplers,
    sweeps,
    synthetic_data,
    training,
)

# Doors whose names are gone through, and the names that return no tensors.
ROOMS = (
    'checkpoints data denoisers exact features jacobians networks representations '
    'reproducibility samplers sweeps synthetic_data training'
)
NO_TENSORS = dict(
    checkpoints=(
        'published_config describe embedded_models export '
        'file_header find_checkpoint save write_tensors UnsafePickleError lighten load_strictly'
    ),
    data=(
        'image_grid save_images show_images write_png image_digests images_digest PUBLISHED_SETS '
        'published_images published_set write_mnist_m stratified_order open_door'
    ),
    denoisers=('Denoiser Preconditioned'),
    exact=('show_derivation EpsilonProcess'),
    features=(
        'export_statistics fill_statistics save_classifier classifier_hash embedded_classifiers Features '
        'load_features fid image_metrics kid '
        'precision_recall layer_names embedded_descriptors SSCDSettings SSCDTraining '
        'calibrate_threshold micro_average_precision'
    ),
    jacobians=('LowRankDenoiser molrg_settings Rank Spectrum RankCurve subspace_error'),
    networks=('code_size Network network_facts NETWORKS edm_network'),
    representations=(
        'load_coded save_coded InformationEstimate gaussian_information ksg_information '
        'mine_information InformationMatrix mutual_information MIXERS Mixer attention_profile '
        'jensen_shannon mask_ablation profile_distances BatchedEnsemble CodedDenoiser '
        'ConditionedDenoiser InterpolatedDenoiser CodeDecoder'
    ),
    reproducibility=('denoiser_agreement Score'),
    samplers=(
        'ablation_sampler discretize GuidedDenoiser SAMPLERS as_sampler '
        'INTERACTIVE_STEPS PUBLISHED_STEPS SAMPLING_STEPS Sampler State'
    ),
    sweeps=(
        'export_change pair_images forward_backward_folder balanced_indices imagenet_labels '
        'open_images read_synsets LayerChange join_changes activation_change sweep_change '
        'fill_change even_levels susceptibility'
    ),
    synthetic_data=('CAS ClassifierRecipe compare_sets classification_accuracy_score'),
    training=('EMA Training batches parametrise published_network recipe Settings'),
    front=(
        'fit_transition SSCD CompareExplorer DirectionExplorer NeighbourExplorer SweepExplorer '
        'SyntheticExplorer TrajectoryExplorer'
    ),
)
LEARNED = 'train_classifier train_sscd train_molrg'  # trained models: parameters that have learned

X = torch.full((2, 1, 8, 8), 0.25)
PAIR = torch.tensor([0, 1])


class UNet2DModel(torch.nn.Linear):
    "Stands for the class of diffusers of that name"

    config = dict(sample_size=8, in_channels=1, out_channels=1)

    def __init__(self):
        super().__init__(8, 8)

    def forward(self, sample, timestep):
        return (super().forward(sample),)


def tensors(result):
    "All tensors in a result, whatever holds them"
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, nn.Module):
        yield from [*result.parameters(), *result.buffers()]
    elif isinstance(result, Mapping):
        yield from (t for value in result.values() for t in tensors(value))
    elif isinstance(result, (list, tuple, Iterator)):
        yield from (t for value in result for t in tensors(value))
    elif dataclasses.is_dataclass(result) or hasattr(result, '__dict__') and not isinstance(result, type):
        yield from (t for value in vars(result).values() for t in tensors(value))


class Heard(list):
    "A callback that keeps all that it is called with"

    def __call__(self, *arguments):
        self.append(arguments)


def heard(function, *arguments, name='callback', **options):
    "A result, and what its callback was called with"
    callback = Heard()
    result = function(*arguments, **options, **{name: callback})
    assert list(tensors(callback))
    return result, callback


@pytest.fixture(scope='module')
def calls(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('weights')
    path, pickled = folder / 'model.safetensors', folder / 'tensor.pkl'
    pickled.write_bytes(pickle.dumps({'weight': torch.ones(2)}))
    gaussian = df.GaussianDenoiser(torch.zeros(1, 8, 8), 0.25)
    optimal = df.OptimalDenoiser(X, labels=PAIR)
    patch = df.PatchDenoiser(X, 3, share=0.5)
    net = df.UNet(8, 1, 32, 1, 1, (), (1,), num_classes=2, null_class=True).eval()
    digits = df.load_images('digits', max_images=4)
    edm, classes = df.EDMDenoiser(net), dict(labels=PAIR)
    df.save(edm, path)
    labelled = df.ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), PAIR)
    grey = df.load_images('mnist5k', max_images=4)
    model, classifier = df.SSCD('small', dims=4).eval(), features.load_classifier('mnist5k')
    tree = df.RandomHierarchy(3, 2, 2, 2)
    leaves = tree.encode(tree.sample(2)[0])
    molrg, codes, unit = df.MoLRG(2, 12, 2), df.normal((20, 3, 4)), nn.functional.normalize(df.normal((6, 4)))
    subspace, eps = molrg.bases, df.DDPMDenoiser(net)
    latent = df.LatentDenoiser(gaussian, (torch.neg, torch.neg))
    walk = dict(sigmas=[2.0, 1.0, 0.0])
    song, coded = (
        df.SongUNet(8, 1, 1, 2, model_channels=32, channel_mult=(1,), num_blocks=1),
        torch.ones(2, 5),
    )
    small = dict(image_size=8, in_channels=1, model_channels=32, out_channels=1, num_res_blocks=1,
                 attention_resolutions=(), channel_mult=(1,))  # fmt: skip
    own = dict(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), layers_per_block=1,
               down_block_types=('DownBlock2D',), up_block_types=('UpBlock2D',))  # fmt: skip
    stripes = df.DhariwalUNet(8, 1, 1, 2, model_channels=64, channel_mult=(1,), num_blocks=1)
    mixers = {name: getattr(df, name)(hidden=8, seeds=1, epochs=1)
              for name in 'SingleTime MeanMixer ConcatMixer GRUMixer TransformerMixer'.split()}  # fmt: skip
    fitted = lambda name: mixers[name].fit(codes, torch.arange(20) % 2)
    encoder = df.TimeEncoder(k=0.5, in_channels=1, depth=10)
    layers = features.layer_names(classifier)[:1]

    def hooks():
        kept = Heard()
        with features.LayerHooks(classifier, layers, kept) as run:
            return run(grey.tensor()), kept

    return {
        'load_denoiser': lambda: df.load_denoiser('mnist'),
        'ImageSet': lambda: (digits, digits.tensor([0]), digits[1]),
        'load_images': lambda: df.load_images('digits', max_images=2),
        'to_float': lambda: data.to_float(X.byte()),
        'to_uint8': lambda: data.to_uint8(X),
        'Preprocess': lambda: model.preprocess(grey.images),
        'check_images': lambda: data.check_images(X),
        'normal': lambda: (df.normal((2, 3)), noise.uniform((2, 3))),
        'as_sigma': lambda: denoisers.as_sigma(1.0, X),
        'expand_like': lambda: denoisers.expand_like(torch.ones(2), X),
        'Denoiser': lambda: (gaussian(X, 1.0), gaussian.loss(X), gaussian.posterior(X, 1.0, 0.5)),
        'DDPMDenoiser': lambda: eps(X, 1.0, PAIR).detach(),
        'p_mean_variance': lambda: denoisers.p_mean_variance(eps, X, PAIR, PAIR),
        'EDMDenoiser': lambda: edm(X, 1.0, PAIR),
        'IDDPMDenoiser': lambda: df.IDDPMDenoiser(net)(X, 1.0, PAIR),
        'wrap': lambda: df.wrap(lambda x, t: (0.5 * x, t), 'edm')(X, 1.0),
        'LatentDenoiser': lambda: (
            latent(X, 1.0),
            latent.encode(X),
            latent.decode(X),
            latent.loss(X),
            df.sample(latent, 2, steps=2, progress=False),
        ),
        'FlowDenoiser': lambda: df.FlowDenoiser(net)(X, 1.0, PAIR),
        'VEDenoiser': lambda: df.VEDenoiser(net)(X, 1.0, PAIR),
        'VPDenoiser': lambda: df.VPDenoiser(net)(X, 1.0, PAIR),
        'GaussianDenoiser': lambda: (gaussian, gaussian.draw(X)),
        'LocalDenoiser': lambda: (df.LocalDenoiser(X)(X, 1.0), df.LocalDenoiser(X).windows(1.0)),
        'SmoothedDenoiser': lambda: df.SmoothedDenoiser(X)(X, 1.0),
        'WienerDenoiser': lambda: (df.WienerDenoiser(X)(X, 1.0), df.WienerDenoiser(X).draw(X)),
        'HierarchyDenoiser': lambda: tree.denoiser(leaves, 1.0),
        'RandomHierarchy': lambda: (
            tree.sample(2),
            tree.posterior_sample(leaves, 1.0),
            tree.beliefs(leaves, 1.0),
        ),
        'MoLRG': lambda: (molrg.sample(3), molrg.denoiser),
        'MoLRGDenoiser': lambda: molrg.denoiser(molrg.sample(2)[0], 1.0),
        'OptimalDenoiser': lambda: (
            optimal,
            optimal.examine(X, 1.0),
            optimal.top(X, 1.0, 1),
            optimal.weights(X, 1.0),
        ),
        'PatchDenoiser': lambda: (
            patch,
            patch(X, 1.0),
            patch.error(X, 1.0),
            patch.patch_at(1.0),
            patch.calibrate(gaussian, X, [1.0]),
            patch.jacobian_product(X, 1.0, X),
        ),
        'sample': lambda: heard(df.sample, edm, 2, steps=2, progress=False, **classes),
        'gaussian_structure': lambda: df.gaussian_structure(edm, labelled, 2, steps=2, progress=False),
        'ablation_sample': lambda: heard(samplers.ablation_sample, gaussian, 2, 2, progress=False),
        'ddim_reverse': lambda: samplers.ddim_reverse(gaussian, X, [1.0, 2.0]),
        **{
            name: lambda name=name: getattr(df, name)(edm, X, **walk, **classes)
            for name in ('ddpm', 'ddim', 'euler', 'heun', 'dpmpp_2m')
        },
        'Sweep': lambda: sweeps.sweep(edm, X, [0, 1, 2], 2, **classes).noised_vp,
        'sweep': lambda: heard(df.sweep, edm, X, [0, 1, 2], 2, **classes),
        'sweep_states': lambda: sweeps.sweep_states(edm, X, [1, 2], 2, sampler='dpmpp_2m', **classes),
        'forward_backward': lambda: df.forward_backward(edm, X, 1, 2, **classes),
        'Scheduler': lambda: (s := df.Scheduler.linear(30), s.q_sample(X, 3, X), s.snr_db),
        'numerical_rank': lambda: df.numerical_rank(torch.ones(3)),
        'jacobian_spectrum': lambda: df.jacobian_spectrum(
            gaussian, X, 1.0, 2, probes=2, iterations=0, vectors=True
        ),
        'jacobian': lambda: jacobians.jacobian(gaussian, X, 1.0),
        'posterior_covariance': lambda: (
            found := df.posterior_covariance(gaussian, X, 1.0),
            found.trace,
            found.components(2),
            found.product(X),
            found.calibration(X),
        ),
        'intrinsic_dimension': lambda: (
            df.intrinsic_dimension(gaussian, X, 1.0),
            df.intrinsic_dimension(gaussian, X, 1.0, method='ranks'),
        ),
        'log_likelihood': lambda: (
            *df.log_likelihood(gaussian, X, steps=2, probes=2),
            *df.log_likelihood(gaussian, X, 'mmse', steps=2, probes=2),
        ),
        'singular_directions': lambda: jacobians.singular_directions(gaussian, X, 1.0, 2),
        'edit': lambda: jacobians.edit(gaussian, X[:1], 1.0, X[0], [0.0, 1.0], steps=2),
        'trajectory': lambda: jacobians.trajectory(gaussian, seeds=range(2), steps=2),
        'ranks_along': lambda: jacobians.ranks_along(gaussian, seeds=range(2), walk=dict(steps=2)),
        'trajectory_ranks': lambda: heard(jacobians.trajectory_ranks, gaussian, 2, range(2)),
        'principal_angles': lambda: jacobians.principal_angles(subspace, subspace),
        'principal_subspace': lambda: jacobians.principal_subspace(X, 2),
        'cluster_subspaces': lambda: jacobians.cluster_subspaces(X, 1, 1),
        'UNet': lambda: (net, net(X, PAIR, PAIR)),
        'SongUNet': lambda: song(X, torch.ones(2), PAIR),
        'DhariwalUNet': lambda: stripes(X, torch.ones(2), PAIR),
        'DiffusersUNet': lambda: df.DiffusersUNet(**own)(X, PAIR),
        'EDM2UNet': lambda: networks.EDM2UNet(8, 1, 2, model_channels=8, channel_mult=(1,), num_blocks=1)(
            X, PAIR, PAIR
        ),
        'DiffusersModule': lambda: networks.DiffusersModule.of(UNet2DModel())(X, PAIR),
        'DiT': lambda: networks.DiT(8, 2, 1, 16, 1, 2, num_classes=2)(X, PAIR, PAIR),
        'LucidUNet': lambda: networks.LucidUNet(8, dim_mults=(1, 2), channels=1)(X, PAIR),
        'CodedUNet': lambda: networks.CodedUNet(5, **small)(X, PAIR, coded),
        'CodedDiffusersUNet': lambda: networks.CodedDiffusersUNet(5, **own)(X, PAIR, coded),
        'pad_to_even': lambda: networks.pad_to_even(X[:1].expand(3, 1, 8, 8)),
        'timestep_embedding': lambda: networks.timestep_embedding(PAIR, 4),
        'SmallClassifier': lambda: classifier(grey.tensor()),
        'load_classifier': lambda: classifier,
        'activation_statistics': lambda: features.activation_statistics(classifier, grey, layers),
        'ActivationStatistics': lambda: features.activation_statistics(classifier, grey, layers),
        'LayerHooks': hooks,
        'random_warp': lambda: features.random_warp(grey.tensor()),
        'image_features': lambda: features.image_features(grey, 'mnist5k'),
        'sscd_features': lambda: df.sscd_features(grey, model),
        'SSCDAugmentation': lambda: features.SSCDAugmentation()(grey.tensor()),
        'load_descriptor': lambda: features.load_descriptor('mnist5k'),
        'trajectory_codes': lambda: df.trajectory_codes(encoder, digits, [0.0, 0.5]),
        'unet_features': lambda: df.unet_features(edm, X, [1.0], **classes),
        'TimeEncoder': lambda: encoder(X, 0.5),
        'sigma_of': lambda: representations.sigma_of(0.5),
        'Autoencoder': lambda: encoder,
        **{
            name: lambda name=name: (fitted(name).probabilities(codes), mixers[name].answers(codes))
            for name in mixers
        },
        'flow_distance': lambda: df.flow_distance(edm, edm, 2, steps=2, progress=False),
        'rp_score': lambda: df.rp_score(unit, unit),
        'm_score': lambda: df.m_score(unit, unit),
        'gl_score': lambda: df.gl_score(unit, unit),
        'nearest': lambda: reproducibility.nearest(unit, unit),
        'rp_matrix': lambda: reproducibility.rp_matrix(dict(a=unit, b=unit)),
        'score': lambda: reproducibility.score('RP score', torch.ones(3), 0.5),
        'labelled_samples': lambda: df.labelled_samples(edm, 1, steps=1),
        'class_counts': lambda: synthetic_data.class_counts(3, 2),
        'copy_check': lambda: synthetic_data.copy_check(grey, grey, grey, model, 0.5),
        'Augmentation': lambda: training.Augmentation(0.5)(X),
        'train': lambda: heard(df.train, edm, labelled, steps=1, batch_size=2, progress=False),
        'read_contents': lambda: checkpoints.read_contents(path),
        'read_tensors': lambda: checkpoints.read_tensors(path),
        'unpickle': lambda: checkpoints.unpickle(pickled),
    }


def offered():
    "The names at the doors of the rooms that compute, and at the front door"
    rooms = {name: importlib.import_module(f'difflow.{name}') for name in ROOMS.split()}
    return {name for room in [*rooms.values(), df] for name in room.__all__ if not name.startswith('__')}


def test_every_public_name_is_known(calls):
    "A new name is tried, or said to return no tensors."
    known = set(calls) | set(' '.join(NO_TENSORS.values()).split()) | set(LEARNED.split())
    assert offered() - known == set()
    assert known - offered() == set()


def test_results_can_be_learned_from(calls):
    "An inference tensor cannot be saved for a backward pass: none is returned, or handed to a callback."
    found = {}
    for name, call in calls.items():
        torch.manual_seed(0)
        parts = list(tensors(call()))
        assert parts, name
        found[name] = [tuple(part.shape) for part in parts if part.is_inference()]
    assert not any(found.values()), {name: shapes for name, shapes in found.items() if shapes}


def test_a_linear_probe_learns_from_features(calls):
    z = calls['unet_features']()[:, 0]
    nn.Linear(z.shape[1], 10)(z).mean().backward()
