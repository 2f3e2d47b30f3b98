"""The commands that measure what changes in a classifier, by two processes as by one"""

import json
import re
import socket
import sys

import numpy as np
import torch

from difflow import load_images
from difflow.data import save_images
from difflow.features import ActivationStatistics, activation_statistics, load_classifier
from difflow.sweeps import LayerChange, activation_change, pair_images


def test_commands_under_two_processes(run, tmp_path):
    "Statistics and evaluation by two processes equal those of one"
    digits = load_images('mnist5k', split='test', max_images=12)
    save_images(digits.tensor(), tmp_path / 'start', digits.names)
    for r in (10, 20):
        worse = (digits.tensor() * (1 - r / 40)).clamp(-1, 1)
        save_images(worse, tmp_path / 'back', [f'{name}_t{50 * r:04d}' for name in digits.names])
    lines = (
        'classifier-statistics --classifier_name mnist5k --data_dir start --num_samples 10',
        'evaluate-classifier --classifier_name mnist5k --starting_data_dir start --data_dir back '
        '--timestep_respacing 20 --time_series 10 20 --pickles published',
    )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    code = """if True:
        import sys, os, multiprocessing
        from difflow.cli import main
        def work(rank, line, port):
            os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            main(line.split())
        if __name__ == '__main__':
            import torch, difflow.sweeps.layer_change, difflow.features.classifiers
            fork = multiprocessing.get_context('fork')
            for i, line in enumerate(sys.argv[2:]):
                port = int(sys.argv[1]) + i
                both = [fork.Process(target=work, args=(rank, line, port)) for rank in range(2)]
                for p in both: p.start()
                for p in both: p.join()
                assert [p.exitcode for p in both] == [0, 0]"""
    together = run(
        sys.executable,
        '-c',
        code,
        port,
        *(
            f'{line} --output two{i}.npz --statistics two0.npz' if i else f'{line} --output two{i}.npz'
            for i, line in enumerate(lines)
        ),
        cwd=tmp_path,
    )
    assert together.returncode == 0, together.stderr
    model, start = load_classifier('mnist5k'), load_images(tmp_path / 'start', 28, 1)
    alone, shared = (
        activation_statistics(model, start, max_images=10),
        ActivationStatistics.load(tmp_path / 'two0.npz'),
    )
    for name, moments in alone.moments.items():
        torch.testing.assert_close(shared.moments[name].mean, moments.mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(shared.moments[name].variance, moments.variance, rtol=1e-5, atol=1e-8)
    change, sets = (
        LayerChange.load(tmp_path / 'two1.npz'),
        pair_images(start, load_images(tmp_path / 'back', 28, 1), 20),
    )
    expected = activation_change(model, sets[0], sets[2], alone, sets[1])
    assert change.levels == [10, 20] and change.names == expected.names
    for name in ('cosine', 'shuffled'):
        np.testing.assert_allclose(getattr(change, name), getattr(expected, name), atol=1e-5)
    assert len(list((tmp_path / 'published').iterdir())) == 4
    assert re.search(r'12 images, same class at 10: \d\.\d\d, 20: \d\.\d\d', together.stdout)


def test_manifest_tells_steps_and_noise_levels(tmp_path):
    from difflow.cli.classifiers import _manifest_of

    assert _manifest_of(tmp_path) == (250, {}) and _manifest_of(tmp_path / 'none') == (250, {})
    rows = [
        dict(file='a', steps=20, step_reverse=5, sigma=0.5),
        dict(file='b', steps=20, step_reverse=20, sigma=None),
    ]
    (tmp_path / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert _manifest_of(tmp_path) == (20, {5: 0.5, 20: float('inf')})
