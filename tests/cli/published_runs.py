"""How a published line is run in a test: smaller, elsewhere, and with what is read and checked afterwards."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

# what may differ from the published line: where files lie, and how much there is to do
PLACES_AND_SIZES = (
    'outdir data dest source network dataset images features target model_path data_dir output '
    'starting_data_dir network_pkl path save_dir pretrained_ckpt workdir config ref '
    'seeds max_images duration batch batch_size snap dump model_channels num_per_class num_classes '
    'timestep_respacing step_reverse time_series num_samples image_size num_channels num_head_channels '
    'num_res_blocks attention_resolutions sample_per_class per_class_dim embed_channels epochs '
    'sampling_steps num_sampled_images steps num n_iters snapshot_freq nf idx hidden score_seeds'
).split()


class Run(NamedTuple):
    "What a test changes of a line, what it lays out before, and what it reads afterwards"

    change: dict[str, str] = {}  # option without dashes, with _: its other value, or of a default of the line
    prepare: Callable[[Path], None] = lambda folder: None  # lays files in the folder of the run
    check: Callable[[Path, str], None] = lambda folder, printed: None  # of the folder, of what was printed
    refused: str | None = None  # words of the refusal of a line that cannot be had; None: it runs
    environment: dict[str, str] = {}  # as a launcher sets it
    smaller: Callable[[pytest.MonkeyPatch], None] = lambda patch: None  # sizes that no word of the line has


def changed_words(words: str, change: dict[str, str]) -> list[str]:
    "Return the words of a line with other values; AssertionError for a name that is no place or size"
    left, result, done = shlex.split(words), [], set()
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition('=')
        key = name.lstrip('-').replace('-', '_').split('.')[-1]
        if not name.startswith('--') or key not in change:
            result.append(word)
            continue
        assert key in PLACES_AND_SIZES, f'{name} is no place or size: it stays as published'
        done.add(key)
        if not equals:
            left.pop(0)
        result += [f'{name}={change[key]}'] if equals else [name, change[key]]
    for key, value in change.items():  # a size that the line leaves to its default
        assert key in PLACES_AND_SIZES, f'{key} is no place or size: it stays as published'
        result += [] if key in done else [f'--{key.replace("_", "-")}', value]
    return result
