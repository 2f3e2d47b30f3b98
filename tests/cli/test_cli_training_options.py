"""Every option of `difflow train`, changed between two runs: refused, or the files of an empty folder."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from difflow.cli.root import _load_commands, app, main

_load_commands()
PARAMETERS = {p.name: p for p in typer.main.get_command(app).commands['train'].params}
BASE = (
    'train --arch plain --data two --model-channels 32 --channel-mult 1 --num-res-blocks 1 '
    '--attention-resolutions 2 --patch-size 2 --steps 2 --batch-size 2 '
    '--sample-every 2 --sampling-steps 2 --snap 1 --tick 0.002'
)
OTHER = dict(  # another value of each option; an option that is missing here fails
    out='other', outdir='parent', arch='ddpmpp', data='one', split='train', dataset='mnist', data_dir='x',
    download='', size='4', class_cond='', model_channels='64', channel_mult='2', num_res_blocks='2',
    attention_resolutions='4', num_heads='2', num_head_channels='16', dropout='0.5', patch_size='4',
    resblock_updown='', denoiser='v', sigma_data='2', p_mean='0', p_std='1', schedule='linear',
    diffusion_steps='10', steps='3', duration='0.002', epochs='1', batch_size='4', lr='0.002', warmup='1',
    lr_rampup='5', cooldown='0', weight_decay='0.1', betas='0.8 0.9', eps='1e-7', grad_clip='2',
    ema_halflife='10', ema='0.1', ema_w='0.5', ema_rampup=None, label_dropout='0.5', augment='0.1',
    accumulate='2', seed='1', pretrained_ckpt='base/model.safetensors', transfer='base/model.safetensors',
    delete_keys='out.2.bias', resume='base/training.safetensors', restart='', save_every='1', tick='0.004',
    snap='2', dump='1', sample_every='1', sample_epochs='1', sampling_steps='3', ddim='',
    mixed_precision='bf16', compile='', workers='1', half='', log_with='nothing', sampling_only='',
    num_sampled_images='2', local_rank='0', xflip='', cache='', batch_gpu='1', levels='independent', fp16='',
    desc='x', nosubdir='', dry_run='', as_published='', ls='2', bench='',
)  # fmt: skip
SAYS = dict(  # what the line says where it is not the name of the option
    arch='ddpmpp', data='images', split='images', size='image', class_cond='num_classes', epochs='steps',
    denoiser='parametrisation', duration='steps', ema='ema_halflife', pretrained_ckpt='model',
    transfer='model', tick='snapshots', snap='snapshots', dump='dumps', sample_every='samples',
    sample_epochs='samples', sampling_steps='samples', ddim='samples', xflip='images',
    batch_gpu='accumulate',
)  # fmt: skip


def line(words):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(words))
    return stop.value.code or 0


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with images, with a run of them, and with all that it left"
    folder = tmp_path_factory.mktemp('options')
    rng = np.random.default_rng(0)
    for name, count in (('one/a', 3), ('one/b', 2), ('two/a', 2), ('two/b', 3)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f'{i}.png')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert line(f'{BASE} --out base') == 0
    return folder


def files(folder):
    return {p.name: p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}


def with_other(name):
    "Return the words of the run with another value of an option"
    value = OTHER[name]
    flag = PARAMETERS[name].opts[0] if value is not None else PARAMETERS[name].secondary_opts[0]
    base = BASE
    if name in ('duration', 'epochs'):
        base = base.replace('--steps 2 ', '')
    if name in ('dataset', 'sample_epochs'):
        base = base.replace('--data two ' if name == 'dataset' else '--sample-every 2 ', '')
    return f'{base} {flag} {value or ""}'


@pytest.mark.parametrize('name', PARAMETERS)
def test_an_option_that_changes_is_refused_or_makes_what_an_empty_folder_gets(
    name, home, monkeypatch, capsys
):
    assert name in OTHER, f'{name} is new: give another value of it'
    monkeypatch.chdir(home)
    words, before = with_other(name), files('base')
    shutil.copytree('base', f'used-{name}')
    where = '' if name == 'out' else '--out'
    code = line(f'{words} {where and f"--out used-{name}"}')
    message = capsys.readouterr().err.strip()
    if code:
        assert code == 2 and '\n' not in message, message
        said = SAYS.get(name, name), name.replace('_', '-'), name
        assert any(word.lower() in message.lower() for word in said), message
        assert files(f'used-{name}') == before  # and nothing was touched
        return
    assert line(f'{words} {where and f"--out empty-{name}"}') == 0
    made, wanted = (files(f'{kind}-{name}' if where else 'other') for kind in ('used', 'empty'))
    if name == 'dry_run':  # writes nothing
        assert files(f'used-{name}') == before and not Path(f'empty-{name}').exists()
        return
    if name == 'resume':  # is for a folder without a state, which has no files of the steps before it
        assert wanted['model.safetensors'] == before['model.safetensors']
        wanted = before
    assert made.keys() == wanted.keys()
    assert [n for n in made if made[n] != wanted[n]] == []


def test_a_parent_of_numbered_folders_never_mixes_runs(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    for more in ('', '', '--data one', '', '--sigma-data 2'):
        assert line(f'{BASE} {more} --outdir runs') == 0
    assert sorted(p.name for p in Path('runs').iterdir()) == [
        f'0000{i}-{data}-uncond-plain-edm-gpus1-batch2-fp32' for i, data in enumerate(('two', 'one', 'two'))
    ]
    out = capsys.readouterr().out
    assert out.count('0 of 2 steps, ') == 2 and out.count('2 of 2 steps, ') == 3
    first = files(Path('runs/00000-two-uncond-plain-edm-gpus1-batch2-fp32'))
    assert {name: first[name] for name in files('base')} == files('base')


def test_the_first_line_says_what_is_used(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert line(f'{BASE} --split train --out part') == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith('training on 4 of 5 images of two, 8x8x1, 2 classes, not shown; UNet of ')
    assert line(f'{BASE} --class-cond --out classes') == 0
    assert 'training on 5 of 5 images of two, 8x8x1, 2 classes; ' in capsys.readouterr().out


@pytest.mark.parametrize('out', ['two/a/0.png', 'two/a/0.png/deep'])
def test_where_no_folder_can_be_nothing_is_trained(out, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert line(f'{BASE} --out {out}') == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(f'difflow: {out} is no folder to write to: ') and '\n' not in message
