"""forward-backward in the layout of its published script: names, files and numbers, with no file of ours."""

import argparse
import io
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from forward_backward_runs import SMALLER, WNIDS, lay_model, names, picture
from option_changes import call, files_of
from PIL import Image
from published_runs import changed_words

from difflow import load_denoiser, load_images, sweep
from difflow.cli.published_forward_backward import _LINES
from difflow.sweeps import open_images

ROOT = 'results/diffused_ILSVRC2012_validation'
LINE = ' '.join([_LINES[0].command, *changed_words(_LINES[0].words, SMALLER)])


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp('given')
    lay_model(folder)
    return folder


@pytest.fixture(scope='module')
def published(given, tmp_path_factory):
    "A folder in which the line of the README has run as published"
    folder = tmp_path_factory.mktemp('published')
    shutil.copytree(given, folder, dirs_exist_ok=True)
    code, printed = call(f'{LINE} --as-published', folder)
    assert code == 0, printed
    return folder


def theirs(folder):
    return {name: data for name, data in files_of(folder).items() if name.startswith(ROOT)}


def test_the_files_are_those_of_the_script(published):
    files = {name.removeprefix(f'{ROOT}/') for name in theirs(published)}
    (arguments,) = (name for name in files if '_args_' in name)
    images = {f't_2_4_images/{name}_t0500.JPEG' for name in names()}
    logs = {'t_2_4_images/log.txt', 't_2_4_images/progress.csv'}
    assert files == {*images, *logs, arguments, 't_2_4_timing.txt', 'manifest.jsonl', 'run.json'}
    log = (published / ROOT / 't_2_4_images/log.txt').read_text()
    assert 'creating 6 samples...\n' in log and log.endswith('sampling complete\n')
    assert (published / ROOT / 't_2_4_images/progress.csv').read_bytes() == b''
    count, seconds = (published / ROOT / 't_2_4_timing.txt').read_text().split('\t')
    assert int(count) == 6 and float(seconds) > 0


def test_the_arguments_are_those_of_the_script(published):
    (file,) = (published / ROOT).glob('t_2_4_args_*.pk')
    stored = pickle.loads(file.read_bytes())
    assert isinstance(stored, argparse.Namespace)
    assert vars(stored) == dict(
        clip_denoised=True,
        num_samples=10000,
        batch_size=32,
        use_ddim=False,
        model_path='models/256x256_diffusion_uncond.pt',
        image_size=16,
        num_channels=32,
        num_res_blocks=1,
        num_heads=4,
        num_heads_upsample=-1,
        num_head_channels=16,
        attention_resolutions='8',
        channel_mult='1,2',
        dropout=0.0,
        class_cond=False,
        use_checkpoint=False,
        use_scale_shift_norm=True,
        resblock_updown=True,
        use_fp16=True,
        use_new_attention_order=False,
        learn_sigma=True,
        diffusion_steps=1000,
        noise_schedule='linear',
        timestep_respacing='4',
        use_kl=False,
        predict_xstart=False,
        rescale_timesteps=False,
        rescale_learned_sigmas=False,
        step_reverse=2,
        data_dir='datasets/ILSVRC2012/validation',
        output=ROOT,
        num_per_class=10,
        num_classes=1000,
    )


def test_the_images_are_noised_cut_off_and_coded_as_published(given, tmp_path):
    "One level above where the walk back starts; 256 levels by truncation; Pillow's own quality"
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    line = LINE.replace('--use_fp16 True', '--use_fp16 False')
    assert call(f'{line} --as-published', tmp_path)[0] == 0
    images = open_images(tmp_path / 'datasets/ILSVRC2012/validation', 16, 3)
    denoiser = load_denoiser(
        tmp_path / 'models/256x256_diffusion_uncond.pt',
        image_size=16,
        num_head_channels=16,
        use_new_attention_order=False,
        schedule='linear',
        prediction='eps',
        rescale_timesteps=False,
    )
    back = sweep(denoiser, images.tensor(), [2], 4, convention='repo', independent=True).images[0]
    cut = ((back + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for name, expected in zip(images.names, cut):
        file = tmp_path / ROOT / f't_2_4_images/{name.removesuffix(".JPEG")}_t0500.JPEG'
        coded = io.BytesIO()
        Image.fromarray(expected).save(coded, 'JPEG')
        found, wanted = (np.asarray(Image.open(f)).astype(int) for f in (file, coded))
        assert np.abs(found - wanted).mean() < 0.5  # the same to a rounding here and there
    rounded = ((back + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert (rounded.permute(0, 2, 3, 1).numpy() != cut).mean() > 0.1


def test_again_goes_on_and_another_run_is_refused(published, tmp_path):
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    before = files_of(tmp_path)
    code, printed = call(f'{LINE} --as-published', tmp_path)
    assert code == 0 and '0 made here' in printed and files_of(tmp_path) == before
    for more, named in (
        ('--seed 1', 'seed'),
        ('--convention matched', 'convention'),
        ('--format png', 'format'),
    ):
        code, printed = call(f'{LINE} --as-published {more}', tmp_path)
        assert code == 2 and f'is of another run: {named} ' in printed and files_of(tmp_path) == before
    (tmp_path / ROOT / f't_2_4_images/{names()[0]}_t0500.JPEG').unlink()
    code, printed = call(f'{LINE} --as-published --step_reverse 3', tmp_path)  # and a further level
    assert code == 0 and '7 made here' in printed, printed
    assert len(list((tmp_path / ROOT / 't_3_4_images').glob('*_t0750.JPEG'))) == 6
    assert (tmp_path / ROOT / 't_2_4_timing.txt').read_text().splitlines()[1].startswith('1 \t ')
    assert len(list((tmp_path / ROOT).glob('t_2_4_args_*.pk'))) == 2


def test_processes_of_one_run_leave_one_time_and_one_list_of_arguments(given, tmp_path, monkeypatch):
    "All six images are counted, by whichever process finds everything made"
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    line = LINE.replace('--batch_size 32', '--batch_size 2')
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in '10':
        monkeypatch.setenv('RANK', rank)
        code, printed = call(f'{line} --as-published', tmp_path)
        assert code == 0, printed
    assert (tmp_path / ROOT / 't_2_4_timing.txt').read_text().startswith('6 \t ')
    assert len(list((tmp_path / ROOT).glob('t_2_4_args_*.pk'))) == 1


def test_the_layout_alone_keeps_our_noise(given, tmp_path):
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    code, printed = call(f'{LINE} --layout published --output elsewhere --clip_denoised False', tmp_path)
    assert code == 0 and len(list((tmp_path / 'elsewhere/t_2_4_images').glob('*.JPEG'))) == 6, printed
    settings = json.loads((tmp_path / 'elsewhere/run.json').read_text())
    assert (settings['convention'], settings['independent'], settings['clip']) == ('matched', False, False)


def test_classes_count_as_in_the_list_of_the_kit(given, tmp_path):
    "As published the first so many of all 1000, there or not; else of those that are there"
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    line = LINE.replace('--num_classes 1000', '--num_classes 3').replace(
        '--num_per_class 10', '--num_per_class 1'
    )
    code, printed = call(f'{line} --layout published', tmp_path)
    assert code == 0 and '; 2 of 3 classes are there' in printed, printed
    made = {file.name.split('_')[0] for file in (tmp_path / ROOT).rglob('*.JPEG')}
    assert made == set(WNIDS[:2])
    code, printed = call(line, tmp_path)
    assert code == 0 and 'classes are there' not in printed
    assert {f.name.split('_')[0] for f in (tmp_path / 'results/forward_backward').glob('*.png')} == set(WNIDS)
    picture(tmp_path / 'one/n15075141_1.JPEG', 0)
    code, printed = call(f'{line} --as-published --data_dir one --output two', tmp_path)
    assert code == 2 and 'none of the first 3 of 1000 classes is in one' in printed


def test_what_came_back_is_found_by_default(given, tmp_path):
    "The third line of the README reads what the first one wrote, in both layouts"
    from difflow.cli.classifiers import _returned

    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert _returned() == ROOT
        assert call(LINE, tmp_path)[0] == 0 and _returned() == 'results/forward_backward'
        assert call(f'{LINE} --as-published', tmp_path)[0] == 0 and _returned() == ROOT
        back = load_images(_returned(), 16, 3)
        assert sorted(name.split('/')[-1] for name in back.names) == [f'{n}_t0500.JPEG' for n in names()]
