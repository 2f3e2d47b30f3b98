"""Belief propagation by levels against the same algorithm node by node.

Run with `pytest tests/benchmarks/bench_hierarchy.py -s`."""

from time import process_time

import numpy as np
import pytest
import torch

from difflow import RandomHierarchy, normal

SIGMA, COUNT = 0.5, 256


@pytest.fixture(autouse=True)
def one_thread():
    "Count processor seconds of one thread for both"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def log_sum(weights, axis):
    "Return log sum exp along one axis"
    top = weights.max(axis, keepdims=True)
    return (np.log(np.exp(weights - top).sum(axis, keepdims=True)) + top).squeeze(axis)


def node_by_node(rules, leaves):  # (symbols, m, s) arrays, (B, nodes, v) log likelihoods -> (B, nodes, v)
    "Visit every node of the tree, first upwards, then downwards; return the posteriors of the leaves."
    up = [[leaves[:, i] - log_sum(leaves[:, i], 1)[:, None] for i in range(leaves.shape[1])]]
    for rule in rules:
        level, s = [], rule.shape[-1]
        for node in range(len(up[-1]) // s):
            message = log_sum(sum(up[-1][node * s + i][:, rule[..., i]] for i in range(s)), 2)
            level.append(message - log_sum(message, 1)[:, None])
        up.append(level)
    down = [np.ones_like(up[-1][0]) / up[-1][0].shape[1]]
    for l in range(len(rules) - 1, -1, -1):
        rule, s, level = rules[l], rules[l].shape[-1], []
        for node, above in enumerate(down):
            for i in range(s):
                others = sum(up[l][node * s + j][:, rule[..., j]] for j in range(s) if j != i)
                weight = above[:, :, None] * np.exp(others - others.max((1, 2), keepdims=True))
                message = np.zeros((leaves.shape[2], len(leaves)))
                np.add.at(message, rule[..., i].ravel(), weight.reshape(len(leaves), -1).T)
                level.append((message / message.sum(0)).T)
        down = level
    weight = [below * np.exp(message - message.max(1, keepdims=True)) for below, message in zip(down, up[0])]
    return np.stack([w / w.sum(1, keepdims=True) for w in weight], 1)


def seconds(work):
    start = process_time()
    result = work()
    return process_time() - start, result


def test_levels_are_twenty_times_faster_than_nodes():
    h = RandomHierarchy(v=16, m=4, s=2, L=7)
    x = h.encode(h.sample(COUNT, seed=1)[0]).double()
    x = x + SIGMA * normal(x.shape, seeds=2)
    leaves = (x / SIGMA**2).squeeze(2).transpose(1, 2).numpy()
    rules = [rule.numpy() for rule in h.rules]
    with torch.inference_mode():
        h.denoiser(x, SIGMA)
        fast, ours = min((seconds(lambda: h.denoiser(x, SIGMA)) for _ in range(7)), key=lambda pair: pair[0])
    slow, plain = seconds(
        lambda: np.concatenate([node_by_node(rules, leaves[i : i + 1]) for i in range(COUNT)])
    )
    half, batched = seconds(lambda: node_by_node(rules, leaves))
    difference = np.abs(ours.squeeze(2).transpose(1, 2).numpy() - plain).max()
    print(
        f'\nL = 7, {COUNT} strings, processor time: {slow:.2f} s node by node, {half:.2f} s node by node '
        f'with all strings at once, {fast:.3f} s by levels: {slow / fast:.0f} x and {half / fast:.1f} x; '
        f'largest difference {difference:.0e}'
    )
    assert difference < 1e-9 and np.abs(batched - plain).max() < 1e-9
    assert slow / fast >= 20
