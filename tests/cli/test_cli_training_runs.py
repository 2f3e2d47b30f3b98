"""Files and options of the published training scripts: a second run, and what is refused."""

import json
import shutil

import pytest
import torch
from option_changes import call
from training_runs import (
    few_steps,
    lay_classes,
    lay_state,
    read_statistics,
    small_minimal,
    torch_bytes,
    zipped,
)

from difflow.networks import edm_network

STATE = 'training-runs/00000-cifar10-32x32-uncond-ddpmpp-edm-gpus8-batch512-fp32/training-state-000001'
DATA = 'datasets/cifar10-32x32.zip'
EDM = f'train --outdir runs --data {DATA} --cond 0'


@pytest.fixture
def small(monkeypatch):
    "Small networks and six steps"
    few_steps(monkeypatch, 6)
    return monkeypatch


def refused(line, folder):
    "Return the one line that says why, after which nothing is left in the folder of the runs"
    code, printed = call(line, folder)
    assert code == 2 and not (folder / 'runs').exists()
    return printed.strip().split('\n')[-1]


@pytest.mark.parametrize(
    'words, said',
    [
        ('--batch-gpu 3', '--batch-gpu 3: must divide the 4 images of a process'),
        ('--batch-gpu 2 --accumulate 2', '--accumulate and --batch-gpu: give one of them'),
        ('--fp16 --mixed-precision no', '--fp16 and --mixed-precision: give one of them'),
        ('--transfer a.pkl --resume b.pt', '--transfer and --resume: give one of them'),
        ('--resume network.pt', 'a state of EDM is called training-state-NNNNNN.pt'),
        ('--resume training-state-000007.pt', 'there is no training-state-000007.pt'),
        ('--cond 1', 'the images need one label each'),
        ('--cond maybe', 'maybe'),
        ('--levels even', "'even'"),
        ('--arch plain --as-published', '--as-published goes with --arch, one of ddpmpp'),
    ],
)
def test_refused_before_anything_is_written(words, said, small, tmp_path):
    zipped(DATA)(tmp_path)
    assert said in refused(f'{EDM} {words}', tmp_path)


def test_words_of_folders_need_one(tmp_path):
    for word in ('--desc x', '--nosubdir'):
        assert f'{word.split()[0]} goes with --outdir' in call(f'train {word}', tmp_path)[1]


def test_a_batch_larger_on_each_gpu_than_its_share_is_the_share(small, tmp_path):
    zipped(DATA)(tmp_path)
    _, printed = call(f'{EDM} --batch-gpu 64 -n', tmp_path)
    assert '"batch_gpu": 4,' in printed


def test_states_of_other_networks_and_half_states_are_refused(small, tmp_path):
    lay_state(tmp_path)
    few_steps(small, 252)
    line = f'{EDM} --arch ddpmpp --resume {STATE}.pt'
    assert f'{STATE}.pt is of another network: the weights do not fit this SongUNet: ' in refused(
        f'{line} --cres 1,2', tmp_path
    )
    snapshot = tmp_path / STATE.replace('training-state', 'network-snapshot')
    snapshot = snapshot.with_name(f'{snapshot.name}.pkl')
    snapshot.rename(tmp_path / 'kept.pkl')
    assert f'there is no {snapshot.relative_to(tmp_path)}' in refused(line, tmp_path)
    shutil.move(tmp_path / 'kept.pkl', snapshot)
    few_steps(small, 100)
    assert 'it is at step 250, and the run ends after 100' in refused(line, tmp_path)
    state = edm_network('ddpmpp', 8, 3, augment_dim=9, model_channels=16, num_blocks=1).state_dict()
    (tmp_path / f'{STATE}.pt').write_bytes(torch_bytes(dict(net=state, optimizer_state={})))
    few_steps(small, 252)
    assert 'its optimizer_state has no exp_avg of map_augment.weight, (16, 9)' in refused(line, tmp_path)


def test_a_resumed_run_is_found_again_and_is_not_that_of_fresh_weights(small, tmp_path):
    lay_state(tmp_path)
    few_steps(small, 252)
    line = f'{EDM} --resume {STATE}.pt'
    assert '2 of 252 steps, ' in call(line, tmp_path)[1]
    assert '0 of 252 steps, ' in call(line, tmp_path)[1]
    few_steps(small, 3)
    assert '3 of 3 steps, ' in call(f'{EDM}', tmp_path)[1]
    assert [p.name[:5] for p in sorted((tmp_path / 'runs').iterdir())] == ['00000', '00001']


def test_a_stopped_run_goes_on_with_its_statistics(small, tmp_path):
    zipped(DATA)(tmp_path)
    line = f'{EDM} --tick 0.004 --save-every 2'  # a tick every step

    def stop_after(steps):
        import difflow.training.loop as loop

        train = loop.train

        def stopped(*arguments, callback, **options):
            def after(step, loss):
                callback(step, loss)
                if step + 1 == steps:
                    raise KeyboardInterrupt

            return train(*arguments, callback=after, **options)

        return stopped

    with small.context() as patch:
        patch.setattr('difflow.training.loop.train', stop_after(5))
        assert call(line, tmp_path)[0] == 130
    (folder,) = (tmp_path / 'runs').iterdir()
    with open(folder / 'stats.jsonl', 'a') as file:
        file.write('{"Loss/loss": {"num"')  # killed while it wrote
    assert call(line, tmp_path)[0] == 0
    rows = read_statistics(folder / 'stats.jsonl')
    assert [round(row['Progress/kimg']['mean'] * 1000) for row in rows] == [4, 8, 12, 16, 20, 24]
    assert [row['Progress/tick']['mean'] for row in rows] == [0, 1, 2, 3, 4, 5]
    log = (folder / 'log.txt').read_text()
    assert log.count('training on 8 of 8 images') == 2 and '6 of 6 steps are made' not in log
    whole = call(f'{line} --outdir whole', tmp_path)
    assert whole[0] == 0
    (other,) = (tmp_path / 'whole').iterdir()
    losses = [row['Loss/loss'] for row in read_statistics(other / 'stats.jsonl')]
    assert losses == [row['Loss/loss'] for row in rows]  # the numbers of one run


def test_options_of_a_run_are_those_it_was_found_by(small, tmp_path):
    zipped(DATA)(tmp_path)
    call(EDM, tmp_path)
    (folder,) = (tmp_path / 'runs').iterdir()
    options = json.loads((folder / 'training_options.json').read_text())
    assert options['run']['seed'] == 0 and options['network_kwargs']['class_name'].endswith('EDMPrecond')
    options['run']['seed'] = 5  # of another run
    (folder / 'training_options.json').write_text(json.dumps(options))
    call(EDM, tmp_path)
    assert len(list((tmp_path / 'runs').iterdir())) == 2


def test_as_published_of_edm_has_a_seed_of_its_own(small, tmp_path):
    zipped(DATA)(tmp_path)
    for _ in range(2):
        assert call(f'{EDM} --as-published', tmp_path)[0] == 0
    seeds = [
        json.loads((folder / 'training_options.json').read_text())['run']
        for folder in sorted((tmp_path / 'runs').iterdir())
    ]
    assert seeds[0]['seed'] != seeds[1]['seed'] and {run['levels'] for run in seeds} == {'independent'}
    assert call(f'{EDM} --as-published --seed 4', tmp_path)[0] == 0
    assert '"seed": 4,' in (max((tmp_path / 'runs').iterdir()) / 'training_options.json').read_text()


@pytest.mark.parametrize('words', ['', ' --as-published'])
def test_the_files_of_minimal_diffusion_are_there_again(words, monkeypatch, tmp_path):
    small_minimal(monkeypatch)
    lay_classes('org_balanced', 2, 70)(tmp_path)
    line = f'train --dataset melanoma --data-dir org_balanced --epochs 2 --save-dir kept --ema_w 0.9{words}'
    assert call(line, tmp_path)[0] == 0
    names = [f'UNet_melanoma-epoch_2-timesteps_1000-class_condn_False{end}' for end in ('.pt', '_ema_0.9.pt')]
    made = [torch.load(tmp_path / 'kept' / name, weights_only=True) for name in names]
    share = {key: (made[1][key] - made[0][key]).abs().max().item() for key in made[0]}
    assert max(share.values()) > 0
    (tmp_path / 'kept' / names[0]).unlink()
    assert '0 of 1 steps, ' in call(line, tmp_path)[1]
    again = torch.load(tmp_path / 'kept' / names[0], weights_only=True)
    assert all(torch.equal(again[key], made[0][key]) for key in again)


def test_data_dir_of_other_classes_is_refused(tmp_path):
    lay_classes('org_balanced', 3, 70)(tmp_path)
    _, printed = call('train --dataset melanoma --data-dir org_balanced', tmp_path)
    assert 'put its 33126 train images in org_balanced/melanoma/train, 2 folders' in printed
    lay_classes('sets/mnist_m', 2, 28)(tmp_path)
    lay_classes('sets/cifar10', 2, 32)(tmp_path)  # two folders, but of sets
    assert 'melanoma is not in sets' in call('train --dataset melanoma --data-dir sets', tmp_path)[1]
