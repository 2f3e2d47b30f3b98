"""Layer-wise change at ten levels against the published algorithm.

Run with `pytest tests/benchmarks/bench_layer_change.py -s`."""

from time import process_time

import pytest
import torch

from difflow import load_images, normal
from difflow.features import activation_statistics, load_classifier
from difflow.sweeps import activation_change

LEVELS, IMAGES, BATCH = 10, 256, 128


class Published:
    "The published algorithm: sums in single precision; all activations of a batch kept, level by level"

    def __init__(self, model, layers):
        self.model, self.kept = model, {}
        for name in layers:
            model.get_submodule(name).register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(module, inputs, output):
            self.kept[name] = output.detach()

        return hook

    def run(self, images):
        with torch.no_grad():
            return self.model(images), dict(self.kept)

    def statistics(self, images):
        sums = {}
        for part in images.split(BATCH):
            for name, a in self.run(part)[1].items():
                dims = (0, 2, 3) if a.ndim == 4 else (0, 1)
                size = a.numel() // (a.shape[1] if a.ndim == 4 else 1)
                new = torch.tensor(size), a.sum(dims, keepdim=True), (a**2).sum(dims, keepdim=True)
                sums[name] = [old + more for old, more in zip(sums[name], new)] if name in sums else list(new)
        return {name: (s / n, q / n) for name, (n, s, q) in sums.items()}

    def change(self, start, returned, statistics):
        levels = []
        for samples in returned:
            parts = [self.pair(*pair, statistics) for pair in zip(start.split(BATCH), samples.split(BATCH))]
            levels.append({name: [torch.cat(m) for m in zip(*(p[name] for p in parts))] for name in parts[0]})
        return levels

    def pair(self, start, samples, statistics):
        (_, went), (_, came) = self.run(start), self.run(samples)
        found = {}
        for name, (mean, square) in statistics.items():
            a, b = (((x[name] - mean) / torch.sqrt(square + 1e-8)).flatten(1) for x in (went, came))
            l2, norms = ((b - a) ** 2).sum(1), a.norm(dim=1) * b.norm(dim=1)
            found[name] = l2, l2 / norms, torch.nn.functional.cosine_similarity(a, b)
        return found


def seconds(work):
    "Return the CPU seconds of `work` in this process, whatever else the machine does"
    start = process_time()
    result = work()
    return process_time() - start, result


@pytest.fixture(scope='module')
def inputs():
    start = load_images('mnist5k', split='test').tensor(slice(0, IMAGES))
    returned = torch.stack([(start + 0.2 * s * normal(start.shape, s)).clamp(-1, 1) for s in range(LEVELS)])
    return start, returned


def test_statistics_and_change_at_ten_levels(inputs):
    start, returned = inputs
    ours, theirs = load_classifier('mnist5k'), load_classifier('mnist5k')
    published = Published(theirs, theirs.layers)

    def new():
        statistics = activation_statistics(ours, start, second_moment=True, batch_size=BATCH)
        return activation_change(ours, start, returned, statistics, batch_size=BATCH)

    def old():
        return published.change(start, returned, published.statistics(start))

    new(), old()  # warm up
    times = [(seconds(new), seconds(old)) for _ in range(3)]
    (fast, change), (slow, levels) = (min((t[i] for t in times), key=lambda pair: pair[0]) for i in range(2))
    for s, level in enumerate(levels):
        for i, name in enumerate(change.layers):
            for measure, values in zip((change.L2_normalized, change.cosine), level[name][1:]):
                torch.testing.assert_close(torch.tensor(measure[s, i]), values, atol=1e-4, rtol=1e-3)
    ratios = sorted(b[0] / a[0] for a, b in times)
    print(
        f'\nstatistics and change, {LEVELS} levels x {IMAGES} images: published {slow:.2f} CPU s, '
        f'ours {fast:.2f}, {slow / fast:.2f} x (each time: {", ".join(f"{r:.2f}" for r in ratios)})'
    )
    assert slow / fast >= 1.8
