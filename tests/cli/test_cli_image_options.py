"""Every option of the commands that make images or describe them, changed between two runs."""

import pytest
import torch
from option_changes import all_commands, call, check_change, command_options, files_of

from difflow import UNet, load_denoiser, load_images, save
from difflow.checkpoints import published_config
from difflow.data import save_images
from difflow.features import load_descriptor

NET = dict(
    image_size=8, in_channels=1, model_channels=32, out_channels=1, num_res_blocks=1, channel_mult=(1,)
)
LINES = {
    'sample': 'sample --model MODELS/digits.safetensors --n 3 --steps 2 --batch-size 2 --npz all.npz --grid',
    'sample of classes': 'sample --model mnist-class --n 2 --sampling-steps 2 --ddim --batch-size 2',
    'sample as main.py': 'sample --arch UNetSmall --dataset mnist --class-cond --sampling-only '
    '--num-sampled-images 2 --sampling-steps 2 --batch-size 2 --save-dir out '
    '--pretrained-ckpt MODELS/small.pt',
    'generate': 'generate --outdir out --network MODELS/digits.safetensors --seeds 0-2 --steps 3 '
    '--batch 2 --S_churn 1',
    'generate exactly': 'generate --outdir out --optimal_denoiser --dataset PICTURES --seeds 0-2 --steps 3',
    'forward-backward': 'forward-backward --data_dir PICTURES --model_path MODELS/foreign.pt '
    '--step_reverse 2 --timestep_respacing 4 --batch_size 2 --image_size 8 --num_heads 1 --schedule linear '
    '--no-use_new_attention_order --num_per_class 2',
    'sscd feature': 'sscd feature --images LARGE --features f.npz --model mnist5k --batch 3',
}
SAMPLE = {
    'model': 'digits',
    'n': '5',
    'label': None,  # of a model with classes: below
    'class_counts': None,
    'guidance': None,
    'steps': '3',
    'sampler': 'ddim',
    'sampling_steps': None,  # instead of steps: below
    'ddim': ('', 'sampler'),
    'legacy': ('--ddim --legacy', 'sampler'),
    'seed': '2',
    'out': 'elsewhere',
    'grid': '',
    'npz': 'other.npz',
    'batch_size': '3',
    'restart': '',
    'device': 'cpu',
    'arch': None,  # of minimal-diffusion's networks, and what goes with them: below
    'class_cond': '--no-class-cond',
    'sampling_only': None,
    'pretrained_ckpt': None,
    'delete_keys': ('out.2.bias', 'model'),
    'random_labels': '',  # of a model with classes: below
    'truncate': '',
    'as_published': ('', 'truncate'),
    'data_dir': 'nowhere',
    'lr': '1',
    'epochs': '2',
    'ema_w': '0.5',
    'local_rank': '0',
}
CLASSES = dict.fromkeys(SAMPLE) | {
    'label': '3',
    'class_counts': ('--class-counts 1:2', 'sampler'),
    'guidance': '2',
    'sampling_steps': ('3', 'steps'),
    'legacy': ('', 'sampler'),
    'class_cond': '',
    'random_labels': '',
}
MAIN = dict.fromkeys(SAMPLE) | {
    'n': '3',
    'sampling_steps': '3',  # in a folder of its own, as in a file of its own there
    'batch_size': '1',
    'seed': '5',
    'label': '3',
    'class_counts': ('--class-counts 1:2', 'sampler'),
    'ddim': ('', 'sampler'),
    'out': 'elsewhere',
    'npz': 'other.npz',
    'grid': '',
    'restart': '',
    'arch': None,  # another one is refused: test_cli_sampling.py
    'sampling_only': '',
    'pretrained_ckpt': ('MODELS/other_small.pt', 'model'),
    'delete_keys': ('module.label_emb.weight', 'model'),
    'random_labels': '',
    'truncate': '',
    'as_published': ('', 'truncate'),
    'class_cond': '',
    'data_dir': 'nowhere',
}
GENERATE = {
    'outdir': 'elsewhere',
    'network': ('digits', 'model'),
    'seeds': '1-4',
    'subdirs': '',
    'label': None,  # of a model with classes, or a set with labels: below
    'batch': '3',
    'steps': ('4', 'sigmas'),
    'sigma_min': ('0.01', 'sigmas'),
    'sigma_max': ('20', 'sigmas'),
    'rho': ('5', 'sigmas'),
    'S_churn': '2',
    'S_min': '0.1',
    'S_max': '10',
    'S_noise': '1.01',
    'solver': 'euler',
    'disc': 'vp',
    'schedule': 'linear',
    'scaling': 'none',
    'optimal_denoiser': None,  # a model of its own: below
    'dataset': None,
    'noise': 'counter',
    'as_published': ('', 'noise'),
    'restart': '',
    'device': 'cpu',
}
EXACTLY = dict.fromkeys(GENERATE) | {
    'label': ('1', 'model'),
    'dataset': ('OTHERS', 'model'),
    'network': ('--no-optimal_denoiser --network digits --dataset', 'model'),
    'optimal_denoiser': None,
}
EXACTLY['network'] = None
FOLDERS = {
    'data_dir': ('MORE', 'names'),
    'model_path': ('MODELS/other.pt', 'model'),
    'step_reverse': '--step_reverse 1 3',
    'num_classes': '1',
    'num_per_class': '3',
    'timestep_respacing': ('5', 'schedule'),
    'batch_size': '3',
    'use_ddim': ('', 'sampler'),
    'class_cond': '--no-class_cond',
    'seed': '1',
    'out': 'elsewhere',
    'format': 'jpeg',
    'layout': ('--layout published --out results/forward_backward', 'layout'),
    'convention': 'repo',
    'strict': '',
    'sampler': 'ddim',
    'clip_denoised': ('False', 'clip'),
    'num_samples': '5',  # has nothing to do
    'as_published': ('--as-published --out results/forward_backward', 'convention'),
    'guidance': None,  # of a model with classes
    'independent': '',
    'split': ('--split train --num_per_class 1', 'names'),
    'devkit': None,  # of ImageNet
    'synsets': None,  # of ImageNet
    'progress': '--no-progress',
    'restart': '',
    'dtype': ('float16', 'model'),
    'use_fp16': ('', 'model'),
    'image_size': ('16', 'model'),
    'num_heads': ('2', 'model'),
    'num_head_channels': ('16', 'model'),
    'use_new_attention_order': ('', 'model'),
    'schedule': ('cosine', 'model'),
    'diffusion_steps': ('500', 'model'),
    'device': 'cpu',
}
FEATURE = {
    'images': ('PICTURES28', 'images'),
    'features': 'other.npz',
    'model': ('MODELS/descriptor.safetensors', 'model'),
    'batch': ('2', 'batch_size'),
    'restart': '',
    'device': 'cpu',
}
CHANGES = {
    'sample': SAMPLE,
    'sample of classes': CLASSES,
    'sample as main.py': MAIN,
    'generate': GENERATE,
    'generate exactly': EXACTLY,
    'forward-backward': FOLDERS,
    'sscd feature': FEATURE,
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Models and pictures that the lines read"
    data = tmp_path_factory.mktemp('data')
    digits = load_denoiser('digits')
    save(digits, data / 'models/digits.safetensors')
    with torch.no_grad():
        next(p for p in digits.parameters() if p.numel() > 100).mul_(1.5)
    save(digits, data / 'models/twin/digits.safetensors')
    torch.manual_seed(0)
    net = UNet(**NET, attention_resolutions=(8,))
    for name in ('foreign', 'other'):
        torch.save(
            {k: v + 0.01 * (name == 'other') for k, v in net.state_dict().items()}, data / f'models/{name}.pt'
        )
    small = UNet(**published_config('UNetSmall', 28, 1, 10))
    torch.nn.init.normal_(small.out[2].weight, std=0.02)
    for name in ('small', 'other_small'):
        state = {f'module.{k}': v + 0.01 * (name != 'small') for k, v in small.state_dict().items()}
        torch.save(state, data / f'models/{name}.pt')
    images, mnist = load_images('digits'), load_images('mnist5k', split='test')
    chosen = [i for c in range(2) for i in (images.labels == c).nonzero()[:3, 0].tolist()]
    names = [f'{int(images.labels[i])}/{i:04d}' for i in chosen]
    save_images(images[chosen], data / 'pictures', names)
    save_images(images[[*chosen[1:], 40]], data / 'others', names)
    save_images(images[[*chosen, 40]], data / 'more', [*names, '1/2000'])
    save_images(mnist[:6], data / 'large'), save_images(mnist[6:12], data / 'pictures28', mnist[:6].names)
    describe = load_descriptor('mnist5k')
    with torch.no_grad():
        next(describe.parameters()).mul_(1.1)
    describe.save(data / 'models/descriptor.safetensors')
    return data


def at(line, data):
    "Put the places of models and pictures into a line"
    for name in ('MODELS', 'PICTURES28', 'PICTURES', 'OTHERS', 'MORE', 'LARGE'):
        line = line.replace(name, str(data / name.lower()))
    return line


@pytest.fixture(scope='module')
def bases(data, tmp_path_factory):
    "Folders in which the lines have run"
    folders = {case: tmp_path_factory.mktemp('base') for case in LINES}
    for case, folder in folders.items():
        code, printed = call(at(LINES[case], data), folder)
        assert code == 0, printed
    return folders


@pytest.mark.parametrize(
    'case, option', [(case, option) for case, line in LINES.items() for option in command_options(line)]
)
def test_another_option_is_another_run(case, option, data, bases, tmp_path):
    changes = dict(CHANGES[case])
    change = changes.get(option)
    if change is not None:
        parts = [change] if isinstance(change, str) else change
        changes[option] = (at(parts[0], data), *parts[1:])
    check_change(option, at(LINES[case], data), changes, bases[case], tmp_path)


def test_a_model_of_the_same_name_is_another_model(data, bases, tmp_path):
    line = at(LINES['sample'], data)
    before = files_of(bases['sample'])
    code, printed = call(line.replace('models/', 'models/twin/'), bases['sample'])
    assert code == 2 and 'samples is of another run: model ' in printed
    assert files_of(bases['sample']) == before and call(line, bases['sample'])[0] == 0


def test_every_resumable_command_is_tested_so():
    "A command that can begin anew can go on: its options are changed here or in the file of its family"
    elsewhere = set(
        'train train-molrg jacobian represent mix information classifier-statistics evaluate-classifier '
        'cas measure'.split()
    )
    here = {line.split(' --')[0] for line in LINES.values()}
    resumable = {n for n, c in all_commands().items() if 'restart' in {p.name for p in c.params}}
    assert resumable == here | elsewhere


OUTPUTS = {  # what is written to, per command
    'sample': '--out',
    'generate': '--outdir',
    'forward-backward': '--out',
    'sscd feature': '--features',
}


@pytest.mark.parametrize('command', OUTPUTS)
def test_where_nothing_can_be_written_is_one_line(command, data, tmp_path):
    (tmp_path / 'file').write_text('mine')
    wrong = 'file/f.npz' if command == 'sscd feature' else 'file/folder'
    code, printed = call(f'{at(LINES[command], data)} {OUTPUTS[command]} {wrong}', tmp_path)
    assert code == 2 and 'file' in printed and printed.count('difflow: ') == 1 and 'Traceback' not in printed
    assert files_of(tmp_path) == {'file': b'mine'}
