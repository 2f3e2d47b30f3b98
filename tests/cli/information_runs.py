"""How the lines of the published estimates and profiles run in a test, and what is read afterwards."""

import pickle

import numpy as np
import torch
from mixer_runs import RATES, lay_codes, lay_networks, published_forward, published_weights, read_codes
from published_runs import Run


def check_cell(folder, printed, name):
    "Check a cell: three of NumPy's numbers, the same on the diagonal"
    cell = pickle.loads((folder / f'MI-Logs/{name}.pkl').read_bytes())
    assert list(cell) == ['MI', 'HI', 'HJ']
    assert all(isinstance(value, np.float32) and np.isfinite(value) for value in cell.values())
    i, j = divmod(int(name.rpartition('_')[2]), 11)
    if i == j:
        assert cell['MI'] == cell['HI'] == cell['HJ']
    assert 'MI: ' in printed


def cell_run(name, data, wf, mode, seed):
    "Lay out test codes, make a cell, check"
    return Run(
        {'hidden': '16'},
        lambda folder: lay_codes(
            folder, f'{data}_{wf}_none', 10, 64 * wf, seeds=(seed,), mode=mode, counts=(20, 64)
        ),
        lambda folder, printed: check_cell(folder, printed, name),
    )


def shared(i, j, s):
    "Bounds as MINE gives them, other ones for each seed of the critics"
    return 1 + s - abs(i - j) / 10


def lay_cells(folder):
    "Write the cells of one model for two encoders and two seeds of critics, and a single one of another"
    (folder / 'MI-Logs').mkdir()
    for idx in range(121):
        i, j = divmod(idx, 11)
        for seed in range(2):
            for s in range(2):
                values = np.array([shared(i, j, s) / (1 + seed), 2 + i, 2 + j], np.float32)
                content = dict(zip(('MI', 'HI', 'HJ'), values))
                path = folder / f'MI-Logs/cifar100_reg-drl_4_{seed}_{s}_{idx}.pkl'
                path.write_bytes(pickle.dumps(content))
    (folder / 'MI-Logs/cifar10_reg-drl_2_0_0_7.pkl').write_bytes(pickle.dumps(content))


def check_matrix(folder, printed):
    "Check the printed matrix against the published formula, and which pictures there are"
    rows = printed[printed.index('[[') : printed.index(']]')].replace('[', ' ').replace(']', ' ').split()
    i, j = np.indices((11, 11))
    mean = np.mean([shared(i, j, s) for s in range(2)], 0)
    expected = np.mean([mean / (1 + seed) / np.sqrt((2 + i) * (2 + j) + 1e-8) for seed in range(2)], 0)
    assert np.allclose(np.array(rows, float).reshape(11, 11), expected, atol=1e-6)
    assert 'Missing: cifar10 | reg-drl | 2.0 | 0 | 0 | 120 cells' in printed
    (path,) = (folder / 'MI-Plots').iterdir()
    assert path.name == 'nmi_cifar100_reg-drl_4.pdf' and path.read_bytes().startswith(b'%PDF')


def activation_run(data, factor, column, mode, width, size, lr, classes, outputs):
    "Lay out networks and test codes of two encoders, write the attention, check it against the networks"

    def prepare(folder):
        lay_codes(folder, f'{data}_{width}_none', 10, size, classes, range(2), lr, mode)
        for other in ('1e-4', '2e-4', '5e-4') if data == 'synthetic' else (lr,):
            if other != lr:
                folder.joinpath(f'trained_models/{other}').mkdir()
            lay_networks(folder, data, factor, mode, other, (width,), 10, size, 2, 2)
        for s in range(2):  # the learning rate and encoder that validate best
            for i in range(2):
                state = published_weights(s + 7 * i, size, outputs, 16)
                codes, labels = read_codes(folder, f'{data}_{width}_none', 10, s, 'test', lr, mode)
                logits, _ = published_forward(state, codes)
                answers = (logits[:, 0] >= 0).long() if outputs == 1 else logits.argmax(-1)
                tested = 100 * (answers.numpy() == labels[:, column]).mean()
                content = {'Validation Accuracy': 90.0, 'Test Accuracy': tested, 'state_dict': state}
                where = folder / f'{data}_models/{lr}/{mode}/{width}/10/{factor}/{RATES[4]}/{s}-{i}.pt'
                torch.save(content, where)

    def check(folder, printed):
        saved = torch.load(folder / f'{data}_activations/{mode}/{width}/10/{factor}.pt', weights_only=True)
        assert saved.dtype == torch.float32 and saved.shape == (2, 24 * 4 * 11, 2)
        for s in range(2):
            codes, _ = read_codes(folder, f'{data}_{width}_none', 10, s, 'test', lr, mode)
            each = [
                published_forward(published_weights(s + 7 * i, size, outputs, 16), codes)[1] for i in range(2)
            ]
            mean = torch.stack(each).mean(0)[..., :-1]
            assert torch.allclose(saved[s, :, 1], mean.flatten(), atol=1e-5)
        assert torch.allclose(saved[0, :11, 0], torch.arange(11) / 10)
        assert f'Optimal Downstream Learning Rate: {RATES[4]}' in printed and 'again to 0 points' in printed

    return Run({'score_seeds': '2', 'seeds': '2'}, prepare, check)


def lay_activations(folder):
    "Write the attention of forty attributes, as celeba_activations.py does"
    place = folder / 'celeba_activations/reg-drl/2/10'
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for feat in range(40):
        attention = rng.dirichlet(np.ones(11), (3, 5 * 4))
        times = np.broadcast_to(np.arange(11) / 10, attention.shape)
        rows = np.stack([times, attention], -1).reshape(3, -1, 2)
        torch.save(torch.tensor(rows, dtype=torch.float32), place / f'{feat}.pt')


def check_divergences(folder, printed):
    "Check the corners of the printed matrix against the published formula in base 2"
    p = np.array(
        [
            torch.load(folder / f'celeba_activations/reg-drl/2/10/{feat}.pt')
            .view(3, -1, 11, 2)
            .mean((0, 1))[:, 1]
            .double()
            .numpy()
            for feat in range(40)
        ]
    )
    far = lambda a, b: (a * np.log2(a / b)).sum()
    bits = lambda a, b: (far(p[a], (p[a] + p[b]) / 2) + far(p[b], (p[a] + p[b]) / 2)) / 2
    first = printed[printed.index('[[') : printed.index(']')].replace('[', ' ').split()
    numbers = [float(word) for word in first if word != '...']
    assert np.allclose(numbers[:3], [bits(0, b) for b in range(3)], atol=1e-6)
    assert np.allclose(numbers[-3:], [bits(0, b) for b in range(37, 40)], atol=1e-6)
    assert (folder / 'test.png').read_bytes().startswith(b'\x89PNG')


RUNS = {
    'S2 nmi': cell_run('cifar10_probabilistic-drl_2_0_0_0', 'cifar10', 2, 'probabilistic-drl', 0),
    'S2 nmi 120': cell_run('mini_imgnet_reg-drl_4_2_5_120', 'mini_imgnet', 4, 'reg-drl', 2),
    'S2 nmi 121': Run(refused='--idx must be in 0..120'),
    'S2 compute_mi': Run(prepare=lay_cells, check=check_matrix),
    'S2 celeba activations': activation_run('celeba', '3', 3, 'reg-drl', '2', 128, '2e-4', (2,) * 40, 1),
    'S2 cm activations': activation_run(
        'cmnist', 'Background Color', 1, 'reg-drl', '0.25', 16, '2e-4', (10, 9, 9), 9
    ),
    'S2 cm activations Object Shape': Run(refused='cmnist has Digit, Background Color, Foreground Color'),
    'S2 syn activations': activation_run(
        'synthetic', 'Location', 2, 'probabilistic-drl', '0.25', 16, '5e-4', (9, 9, 16, 5), 16
    ),
    'S2 jsd': Run(prepare=lay_activations, check=check_divergences),
}
