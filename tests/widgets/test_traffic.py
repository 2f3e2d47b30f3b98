"""How much an explorer sends to the browser: every message of a large sweep, counted at the comm."""

import json

import comm
import numpy as np
import pytest
import torch

from difflow import Denoiser, ImageSet, SweepExplorer

SIZE, IMAGES = 256, 48
MOST = 8_000_000  # bytes


class CountingComm(comm.base_comm.BaseComm):
    "A comm that keeps what it sends: (the names of the traits, bytes)."

    sent = []

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        size = len(json.dumps(data or {})) + sum(memoryview(buffer).nbytes for buffer in buffers or [])
        data = data or {}
        paths = [path[0] for path in data.get('buffer_paths', [])]  # sheets are sent apart from the state
        self.sent.append(([*data.get('state', {}), *paths], size))


@pytest.fixture
def sent(monkeypatch):
    "What explorers send from now on."
    from ipywidgets.widgets import widget

    monkeypatch.setattr(CountingComm, 'sent', [])
    monkeypatch.setattr(widget.comm, 'create_comm', lambda *args, **keys: CountingComm(*args, **keys))
    return CountingComm.sent


def natural_like_images(count, size):
    "Return (count, 3, size, size) images in [-1, 1] with the 1/f spectrum of photographs, and some edges."
    generator = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1
    waves = np.fft.rfft2(generator.standard_normal((count, 3, size, size))) / f
    x = np.fft.irfft2(waves, (size, size))
    x = x / x.std((2, 3), keepdims=True) / 2
    x[:, :, size // 3 :] *= -1  # an edge
    return torch.tensor(x, dtype=torch.float32).clamp(-1, 1)


class Photographs(Denoiser):
    "The posterior mean of images whose spectrum is that of `natural_like_images`: what comes back is smooth."

    def __init__(self, size):
        super().__init__()
        self.image_shape = (3, size, size)
        f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
        f[0, 0] = 1
        power = f**-2.0
        self.register_buffer('power', torch.tensor(power / power.mean() / 4, dtype=torch.float32))

    def denoise(self, x, sigma, labels):
        keep = self.power / (self.power + sigma.reshape(-1, 1, 1, 1) ** 2)
        return torch.fft.irfft2(torch.fft.rfft2(x) * keep, x.shape[-2:])


def test_a_sweep_of_256_px_rgb_images_sends_under_8_mb(sent):
    "50 steps, 25 levels, in a thread as in a kernel: every message counts, and the thumbnails come first"
    images = ImageSet.of(natural_like_images(IMAGES, SIZE))
    explorer = SweepExplorer(Photographs(SIZE), images, steps=50, levels=25, background=True)
    explorer.wait(600)
    first, total = list(sent), sum(size for _, size in sent)
    opened = next(i for i, (names, _) in enumerate(first) if '_thumbnails' in names)
    drafts = [size for names, size in first[opened + 1 :] if '_frames' in names]
    print(
        f'{total / 1e6:.2f} MB in {len(first)} messages; images can be chosen after {first[opened][1]} bytes'
    )
    assert first[opened][1] < 1_000_000 and all(size < 10_000 for _, size in first[:opened])
    assert len(drafts) > 1 and max(drafts[1:-1]) < 100_000 < drafts[-1]
    assert total < MOST
    explorer.seed = 1
    explorer.wait(600)
    again = sum(size for _, size in sent[len(first) :])
    print(f'another seed: {again / 1e6:.2f} MB in {len(sent) - len(first)} messages')
    assert '_thumbnails' not in {name for names, _ in sent[len(first) :] for name in names}
    assert 0 < again < MOST
