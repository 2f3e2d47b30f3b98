"""Every command that takes a model takes what a foreign file cannot tell, and asks in its own spelling."""

import pytest
import torch
from option_changes import FOREIGN, call, command_options, files_of

from difflow import UNet
from difflow.data import save_images

TELL = '--image-size 8 --num-heads 1 --no-use-new-attention-order'
LINES = {
    'info': 'info m.pt',
    'sample': 'sample --model m.pt --n 2 --steps 2 --out out',
    'sweep': 'sweep --model m.pt --data pictures --split all --steps 2 --levels 2 --out out/s.png',
    'generate': 'generate --network m.pt --seeds 0-1 --steps 2 --outdir out',
    'jacobian': 'jacobian --network m.pt --steps 2 --samples 1 --at 1 --out out/j.npz',
    'forward-backward': 'forward-backward --model m.pt --data_dir pictures --step_reverse 1 '
    '--timestep_respacing 2 --out out',
    'represent': 'represent --mode unet-m.pt --data pictures --granularity 1 --root out',
}
SCHEDULE = {'generate': '--load schedule=linear'}  # its own --schedule means EDM's


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with raw and averaged weights of a small network in one file, and with pictures"
    folder = tmp_path_factory.mktemp('made')
    torch.manual_seed(0)
    net = UNet(8, 1, 32, 1, 1, (), (1,), num_heads=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    raw = net.state_dict()
    averaged = {f'module.{name}': 0.9 * tensor for name, tensor in raw.items()}
    torch.save({'model': raw, 'ema': averaged, 'step': 5}, folder / 'm.pt')
    for part in ('train', 'test'):
        save_images(torch.rand(2, 1, 8, 8) * 2 - 1, folder / 'pictures' / part, ['0/a', '1/b'])
    return folder


def run(line, made, folder):
    "Run a line in a folder that has what is in `made`"
    for file in ('m.pt', 'pictures'):
        if not (folder / file).exists():
            (folder / file).symlink_to(made / file)
    return call(line, folder)


def results(folder):
    return {name: data for name, data in files_of(folder).items() if name.startswith('out')}


def test_all_of_them_are_tested():
    takers = {
        name for name in LINES if set(FOREIGN) - {'schedule', 'dataset'} <= command_options(name).keys()
    }
    assert takers == LINES.keys()


@pytest.mark.parametrize('command', LINES)
def test_a_foreign_file_asks_and_is_answered(command, made, tmp_path):
    code, printed = run(LINES[command], made, tmp_path)
    asks = '--image-size' in printed and '--prediction' in printed and 'image_size=' not in printed
    assert asks and code == (0 if command == 'info' else 2), printed
    line = f'{LINES[command]} {TELL} {SCHEDULE.get(command, "--schedule linear")}'
    code, printed = run(line, made, tmp_path)
    assert code == 0 and 'ema.module (averaged); not model' in printed, printed
    if command != 'info':
        assert 'assumed prediction eps' in printed.splitlines()[0]
    first = results(tmp_path)
    (tmp_path / 'raw').mkdir()
    code, printed = run(f'{line} --key model --prediction eps', made, tmp_path / 'raw')
    assert code == 0 and 'model; not ema.module' in printed and 'assumed' not in printed.split('\n')[0]
    assert command == 'info' or results(tmp_path / 'raw') != first
    if command in ('sample', 'generate', 'jacobian', 'forward-backward', 'represent'):
        code, printed = run(f'{line} --key model', made, tmp_path)
        assert code == 2 and 'is of another run' in printed and results(tmp_path) == first
    code, printed = run(f'{line} --key pupil', made, tmp_path)
    assert code == 2 and "key must be one of 'model', 'ema.module', got 'pupil'" in printed


GUIDED = (  # a line of one of guided-diffusion's scripts says all of this
    '--image_size 8 --num_channels 32 --num_res_blocks 1 --num_heads 1 --num_heads_upsample -1 '
    '--num_head_channels -1 --attention_resolutions 16 --channel_mult 1 --dropout 0.1 --use_checkpoint False '
    '--use_scale_shift_norm True --resblock_updown False --use_fp16 False --use_new_attention_order False '
    '--learn_sigma False --diffusion_steps 1000 --noise_schedule linear --use_kl False '
    '--predict_xstart False --rescale_timesteps False --rescale_learned_sigmas False'
)


@pytest.mark.parametrize('command', LINES)
def test_the_flags_of_guided_diffusion(command, made, tmp_path):
    schedule = SCHEDULE.get(command, '--schedule linear')
    code, printed = run(f'{LINES[command]} {TELL} {schedule} --prediction eps', made, tmp_path)
    assert code == 0, printed
    (tmp_path / 'theirs').mkdir()
    code, theirs = run(f'{LINES[command]} {GUIDED}', made, tmp_path / 'theirs')
    assert code == 0 and results(tmp_path / 'theirs') == results(tmp_path), theirs
    assert [name in theirs for name in ('--dropout has', '--use-kl has', '--use-checkpoint has')] == [
        True
    ] * 3
    if command == 'info':
        assert 'prediction               eps' in theirs
    # what only its scripts' defaults say: 4 heads, the older layout, linear, eps; the side would be 64
    (tmp_path / 'short').mkdir()
    short = f'{LINES[command]} --image_size 8 --num_channels 32'
    code, printed = run(short, made, tmp_path / 'short')
    assert code == 0 and '--num-heads 4, --use-new-attention-order False' in printed, printed
    assert '--prediction eps' in printed and '--schedule linear' in printed


@pytest.mark.parametrize(
    'flag, words',
    [
        ('--num_channels 64', '--num-channels is 32 in the file, got 64'),
        ('--num_res_blocks 2', '--num-res-blocks is 1 in the file, got 2'),
        ('--channel_mult 1,2', "--channel-mult is [1] in the file, got '1,2'"),
        ('--attention_resolutions 16,8', '--attention-resolutions is [] in the file, got [16, 8]'),
        ('--learn_sigma True', '--learn-sigma is False in the file, got True'),
        ('--resblock_updown True', '--resblock-updown is False in the file, got True'),
        ('--use_scale_shift_norm False', '--use-scale-shift-norm is True in the file, got False'),
        ('--class_cond True', 'm.pt has no classes'),
        ('--noise_schedule bent', 'linear'),
    ],
)
def test_a_flag_that_the_file_belies(flag, words, made, tmp_path):
    for command in ('sample', 'jacobian', 'sweep'):
        code, printed = run(f'{LINES[command]} {GUIDED} {flag}', made, tmp_path)
        assert code == 2 and words in printed and not results(tmp_path), printed


def test_our_own_files_belie_flags_too(tmp_path):
    code, printed = call('sample --model digits --n 1 --steps 2 --out out --num_channels 256', tmp_path)
    assert code == 2 and '--num-channels is 32 in the file, got 256' in printed
    code, printed = call('sample --model digits --n 1 --steps 2 --out out --num_channels 32', tmp_path)
    assert code == 0, printed


def test_half_the_torso(made, tmp_path):
    line = f'{LINES["sample"]} {GUIDED}'
    (tmp_path / 'half').mkdir()
    assert run(line, made, tmp_path)[0] == run(f'{line} --use_fp16 yes', made, tmp_path / 'half')[0] == 0
    code, printed = run(f'{line} --use_fp16 yes', made, tmp_path)
    assert code == 2 and 'is of another run' in printed  # other pictures, by a little


def test_what_the_data_set_settles(made, tmp_path):
    line = 'sample --model m.pt --num-heads 1 --no-use-new-attention-order --schedule linear --n 1 --steps 2'
    code, printed = run(f'{line} --dataset mnist', made, tmp_path)
    assert code == 0 and '28x28x1' in printed.splitlines()[0]
    code, printed = run(f'{line} --dataset cifar10', made, tmp_path)
    assert code == 2 and '--dataset cifar10: it has 3 channels, m.pt 1' in printed
    code, printed = run(f'{line} --dataset mnits', made, tmp_path)
    assert code == 2 and "--dataset 'mnits': allowed are mnist" in printed


def test_further_arguments(made, tmp_path):
    line = f'sample --model m.pt {TELL} --n 1 --steps 2 --prediction edm'
    code, printed = run(f'{line} --load sigma_data=0.25', made, tmp_path)
    assert code == 0 and 'EDMDenoiser' in printed.splitlines()[0]
    code, printed = run(f'{line} --load banana=1', made, tmp_path)
    assert code == 2 and "unknown argument 'banana'" in printed
    code, printed = run(f'{line} --load banana', made, tmp_path)
    assert code == 2 and "--load 'banana': expected NAME=VALUE" in printed
