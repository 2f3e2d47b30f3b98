"""How the lines of published read-outs and ablations run in a test, and what is read afterwards."""

import io
import math
import pickle
import re
from functools import cache, partial

import numpy as np
import torch
from published_runs import Run
from torch.nn.functional import layer_norm, linear, relu

RATES = 0.001, 0.00075, 0.0005, 0.00025, 0.0001, 0.00005
FACTORS = {
    'cmnist': {'Digit': (0, 10), 'Background Color': (1, 9), 'Foreground Color': (2, 9)},
    'synthetic': {
        'Background Color': (0, 9),
        'Foreground Color': (1, 9),
        'Location': (2, 16),
        'Object Shape': (3, 5),
    },
    'celeba': {str(i): (i, 2) for i in range(40)},
}


@cache
def pickled_codes(seed, count, g, size, classes, kind='int64'):
    "Return the bytes of a file as representations.py writes it, with as many labels an image as `classes`"
    rng = np.random.default_rng(seed)
    times = np.arange(g + 1) / g
    labels = np.stack([rng.permutation(np.arange(count) % k) for k in classes], 1)
    codes = {t: rng.normal(0, 1, (count, size)).astype(np.float32) for t in times}
    for z in codes.values():
        z[np.arange(count), labels[:, 0] % size] += 2
    content = {'Representation': codes, 'Labels': labels.astype(kind).reshape(-1)}
    return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)


def lay_codes(
    folder, name, g, size, classes=(5,), seeds=(0,), lr='2e-4', mode='reg-drl', counts=(40, 24), **more
):
    "Write codes of encoders where the published scripts look for them, of both parts"
    for seed in seeds:
        place = folder / 'trained_models' / lr / mode / f'{name}_{seed}'
        place.mkdir(parents=True)
        for i, split in enumerate(('train', 'test')):
            data = pickled_codes(10 * seed + i, counts[i], g, size, classes, **more)
            (place / f'{split}_{g}.pkl').write_bytes(data)


def read_codes(folder, name, g, seed, split, lr='2e-4', mode='reg-drl'):
    "Return codes (N, T, D) and labels (N, F) as the published scripts read them"
    content = pickle.loads(
        (folder / f'trained_models/{lr}/{mode}/{name}_{seed}/{split}_{g}.pkl').read_bytes()
    )
    codes = np.stack([content['Representation'][t] for t in np.arange(g + 1) / g], 1)
    return codes, content['Labels'].reshape(len(codes), -1)


def check_log(folder, printed, name, place, times=None):
    "Check the log of a read-out: what `re` finds in it, accuracies in percent, one of the learning rates"
    lines = (folder / 'trained_models/2e-4' / place / name).read_text().split('\n')
    assert lines[0] == 'Pretrained:' and lines[-1] == '' and len(lines) == 2 + len(times or [None])
    for line, t in zip(lines[1:], times or [None]):
        start = '' if t is None else f'Time: {t} \\| '
        found = re.fullmatch(
            start + r'Learning Rate: (\S+) \| Train Accuracy: (\S+) \| Test Accuracy: (\S+)', line
        )
        assert found and float(found[1]) in RATES, line
        assert all(0 <= float(accuracy) <= 100 for accuracy in found.groups()[1:])
        assert abs(float(found[3]) * 24 * (3 if 'Time' in line else 5) / 100 % 1 - 0.5) > 0.49  # whole hits
    assert name in printed and f'read-outs {"single" if times else ""}' in printed


def published_weights(seed, size, outputs, width):
    "Return random weights under the names and in the shapes of the published ablations"
    draw = torch.Generator().manual_seed(seed)
    layers = {'encoder.0': (width, size), 'model.final': (width, width), 'out': (outputs, width)}
    layers |= {f'model.{name}_net': (width, width) for name in ('query', 'key', 'value')}
    layers |= {'model.res.0': (2 * width, width), 'model.res.3': (width, 2 * width)}
    state = {'embedding': torch.randn(1, 1, width, generator=draw)}
    state['pe.pe'] = torch.zeros(1, 75, width)
    angles = torch.arange(75)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    state['pe.pe'][0, :, 0::2], state['pe.pe'][0, :, 1::2] = angles.sin(), angles.cos()
    for name, shape in layers.items():
        state[f'{name}.weight'] = torch.randn(shape, generator=draw) / shape[1] ** 0.5
        state[f'{name}.bias'] = 0.1 * torch.randn(shape[0], generator=draw)
    for name in ('model.norm1', 'model.norm2'):
        state |= {f'{name}.weight': torch.ones(width), f'{name}.bias': torch.zeros(width)}
    return state


def published_forward(state, codes):
    "Return logits and the attention of the token (N, 4, T + 1) of the published network, its token hidden"
    apply = lambda name, x: linear(x, state[f'{name}.weight'], state[f'{name}.bias'])
    norm = lambda name, x: layer_norm(x, x.shape[-1:], state[f'{name}.weight'], state[f'{name}.bias'])
    x = apply('encoder.0', torch.as_tensor(codes))
    x = x + state['pe.pe'][:, : x.shape[1]]
    x = torch.cat([x, state['embedding'].expand(len(x), 1, -1)], 1)
    q, k, v = (
        apply(f'model.{name}_net', x).unflatten(-1, (4, -1)).transpose(1, 2)
        for name in ('query', 'key', 'value')
    )
    score = q @ k.mT / math.sqrt(q.shape[-1])
    score[..., -1] = -math.inf
    weights = score.softmax(-1)
    x = norm('model.norm1', x + apply('model.final', (weights @ v).transpose(1, 2).flatten(2)))
    x = norm('model.norm2', x + apply('model.res.3', relu(apply('model.res.0', x))))
    return apply('out', x[:, -1]), weights[:, :, -1]


def check_mask(folder, printed, name, place, mask):
    "Check both pickles of an ablation, against each other and against the mask; and its pictures"
    perf, act = (
        pickle.loads((folder / f'Ablation/2e-4/{name}_{mask}_10_{kind}.pkl').read_bytes())
        for kind in ('perf', 'act')
    )
    assert list(perf) == ['train', 'val', 'test']
    assert all(part.shape == (6, 3, 3) and part.dtype == np.float64 for part in perf.values())
    hits = perf['test'] * 24 / 100
    assert np.allclose(hits, hits.round()) and perf['train'].max() <= 100
    assert act.shape == (9 * 24 * 4 * 11, 3) and act.dtype == np.float32
    label, when, attention = act.reshape(3, 3, 24, 4, 11, 3).transpose(5, 0, 1, 2, 3, 4)
    for s in range(3):
        assert (
            label[s] == read_codes(folder, place, 10, s, 'test', mode=name.partition('_')[0])[1][:, :, None]
        ).all()
    assert np.allclose(when, np.arange(11) / 10)
    total = attention.sum(-1)
    if mask == 0:
        assert (total < 1).all()
    else:
        assert np.allclose(total, 1, atol=1e-5)
    if mask == 4:
        assert np.allclose(attention[..., 5], 1)
    assert (folder / f'Ablation_png/2e-4/{name}_{mask}_10.png').read_bytes().startswith(b'\x89PNG')
    assert (folder / f'Ablation_pdf/2e-4/{name}_{mask}_10.pdf').read_bytes().startswith(b'%PDF')


def check_factors(folder, printed, data, mode, width, g, rate, lr='2e-4', encoders=1):
    "Check the network of every factor: its facts, and that its weights have the accuracy that it states"
    name = f'{data}_{width}_none'
    for factor, (column, classes) in FACTORS[data].items():
        where = folder / f'{data}_models/{lr}/{mode}/{width}/{g}/{factor}/{rate}'
        assert sorted(p.name for p in where.glob('*.pt')) == [
            f'{s}-{i}.pt' for s in range(encoders) for i in range(3)
        ]
        for s in range(encoders):
            codes, labels = read_codes(folder, name, g, s, 'test', lr, mode)
            for i in range(3):
                saved = torch.load(where / f'{s}-{i}.pt', weights_only=True)
                assert (saved['Learning Rate'], saved['Score Seed'], saved['Downstream Seed']) == (rate, s, i)
                state, outputs = saved['state_dict'], 1 if data == 'celeba' else classes
                wanted = published_weights(0, codes.shape[2], outputs, 16)
                assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}
                assert torch.equal(state['pe.pe'], wanted['pe.pe'])
                logits, _ = published_forward(state, codes)
                answers = (logits[:, 0] >= 0).long() if outputs == 1 else logits.argmax(-1)
                right = 100 * (answers.numpy() == labels[:, column]).mean()
                assert abs(saved['Test Accuracy'] - right) < 1e-6
                assert all(0 <= saved[f'{part} Accuracy'] <= 100 for part in ('Train', 'Validation'))


@cache
def saved_network(seed, size, outputs, validation, test):
    "Return the bytes of a network as the published ablations save it"
    file = io.BytesIO()
    content = {'Train Accuracy': 50.0, 'Validation Accuracy': validation, 'Test Accuracy': test}
    content |= {'Learning Rate': 0.001, 'Score Seed': 0, 'Downstream Seed': 0}
    torch.save(content | {'state_dict': published_weights(seed, size, outputs, 16)}, file)
    return file.getvalue()


def lay_networks(folder, data, factor, mode, lr, widths, g, size, encoders, seeds, test=lambda *where: 40.0):
    "Write networks of all learning rates; the third validates best"
    outputs = 1 if data == 'celeba' else FACTORS[data][factor][1]
    for width in widths:
        for i, rate in enumerate(RATES):
            where = folder / f'{data}_models/{lr}/{mode}/{width}/{g}/{factor}/{rate}'
            where.mkdir(parents=True)
            for s in range(encoders):
                for k in range(seeds):
                    validation = 70.0 if i == 2 else 60.0 - i
                    data_of = saved_network(
                        100 * s + 10 * i + k, size, outputs, validation, test(width, i, s, k)
                    )
                    (where / f'{s}-{k}.pt').write_bytes(data_of)


def check_perf(folder, printed):
    "Check the published line for each width: the median over the encoders of the means over the networks"
    lines = [line for line in printed.split('\n') if line.startswith('Widen Factor')]
    medians = {
        width: np.median([np.mean([10 * width + s + k for k in range(2)]) for s in range(3)])
        for width in WIDTHS
    }
    assert lines == [f'Widen Factor: {width:g} | Test Accuracy: {medians[width]}' for width in WIDTHS]


WIDTHS = 0.0, 0.0625, 0.125, 0.25
BRIEF = {'epochs': '2', 'hidden': '16'}
FACTOR = BRIEF | {'score_seeds': '1'}
by_rate = lambda width, i, s, k: 10 * width + s + k if i == 2 else 99.0


def mask_run(name, place, mask):
    "Lay out codes of three encoders, run, check"
    mode = name.partition('_')[0]
    return Run(
        BRIEF,
        lambda folder: lay_codes(folder, place, 10, 128, seeds=range(3), mode=mode),
        partial(check_mask, name=name, place=place, mask=mask),
    )


def factor_run(data, mode, width, g, size, rate, lr='2e-4', task=None, kind='int64'):
    "Lay out codes of one encoder, train all factors, check"
    classes = tuple(k for _, k in sorted(FACTORS[data].values(), key=lambda pair: pair[0]))
    name = f'{data}_{width}_none'
    return Run(
        FACTOR,
        lambda folder: lay_codes(folder, name, g, size, classes, lr=lr, mode=mode, kind=kind),
        partial(check_factors, data=data, mode=mode, width=width, g=g, rate=rate, lr=lr),
        environment={} if task is None else {'SLURM_PROCID': str(task)},
    )


def read_out_run(log, name, mode, g, size, seed, times=None, read=None):
    "Lay out codes of one encoder, train, check the log"
    place = f'{mode}/{name}_{seed}'
    return Run(
        BRIEF,
        lambda folder: lay_codes(folder, name, read or g, size, seeds=(seed,), mode=mode),
        partial(check_log, name=f'{log}_{g}.txt', place=place, times=times),
    )


RUNS = {
    'S2 mlp cifar10': read_out_run(
        'eval_log_opt', 'cifar10_1_none', 'probabilistic-drl', 1, 64, 0, [0.5], read=2
    ),
    'S2 mlp mini_imgnet': read_out_run(
        'eval_log_opt', 'mini_imgnet_2_none', 'reg-drl', 50, 128, 2, [i / 50 for i in range(51)]
    ),
    'S2 rnn cifar10': read_out_run('eval_log_rnn_opt', 'cifar10_2_none', 'probabilistic-drl', 10, 128, 0),
    'S2 rnn cifar100': read_out_run('eval_log_rnn_opt', 'cifar100_1_none', 'reg-drl', 25, 64, 1),
    'S2 transformer cifar10': read_out_run('eval_log_tsf_opt', 'cifar10_2_none', 'reg-drl', 2, 128, 0),
    'S2 transformer mini_imgnet': read_out_run(
        'eval_log_tsf_opt', 'mini_imgnet_1_none', 'probabilistic-drl', 17, 64, 2
    ),
    'S2 attention ablation': mask_run('probabilistic-drl_cifar10', 'cifar10_2_none', 2),
    'S2 attention ablation 0': mask_run('reg-drl_mini_imgnet', 'mini_imgnet_2_none', 0),
    'S2 attention ablation 4': mask_run('reg-drl_cifar100', 'cifar100_2_none', 4),
    'S2 celeba ablation': factor_run('celeba', 'reg-drl', '2', 2, 128, 0.001, kind='float32'),
    'S2 celeba ablation 5': factor_run('celeba', 'probabilistic-drl', '2', 5, 128, 5e-05),
    'S2 cm ablation': factor_run('cmnist', 'reg-drl', '0', 10, 2, 0.001, task=0),
    'S2 cm ablation 0.5': factor_run('cmnist', 'probabilistic-drl', '0.5', 10, 32, 5e-05, task=5),
    'S2 syn ablation': factor_run('synthetic', 'reg-drl', '0.0625', 10, 4, 0.0005, '1e-4', task=2),
    'S2 cm perf': Run(
        {'score_seeds': '3', 'seeds': '2'},
        lambda folder: lay_networks(
            folder, 'cmnist', 'Digit', 'reg-drl', '2e-4', (0, 0.0625, 0.125, 0.25), 10, 4, 3, 2, by_rate
        ),
        check_perf,
    ),
    'S2 syn perf': Run(
        {'score_seeds': '3', 'seeds': '2'},
        lambda folder: lay_networks(
            folder,
            'synthetic',
            'Object Shape',
            'probabilistic-drl',
            '5e-4',
            (0, 0.0625, 0.125, 0.25),
            10,
            4,
            3,
            2,
            by_rate,
        ),
        check_perf,
    ),
}
