"""What the tests of the sweep explorers share: digits, and a denoiser that counts, waits and fails."""

import io
import struct
import threading

import numpy as np
from PIL import Image

from difflow import Denoiser, load_images
from difflow.data import to_uint8

DIGITS = load_images('mnist5k', split='test', max_images=6, seed=0)
X0 = DIGITS.tensor()


class Counting(Denoiser):
    "Shrink to grey; count the calls, wait for `gate`, and fail on request."

    def __init__(self, num_classes=None, null_class=False, image_shape=(1, 28, 28)):
        super().__init__()
        self.num_classes, self.null_class, self.image_shape = num_classes, null_class, image_shape
        self.calls, self.labels, self.error = 0, None, None
        self.gate, self.inside = threading.Event(), threading.Event()
        self.gate.set()

    def denoise(self, x, sigma, labels):
        self.calls, self.labels = self.calls + 1, labels
        self.inside.set()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return x / (1 + sigma**2).to(x.dtype).reshape(-1, 1, 1, 1)


def pixels(sheet):
    "Return the pictures (S, H, W, C) of a sheet, cut out as the browser does."
    width, height, count = struct.unpack('<HHI', sheet[:8])
    grid = np.asarray(Image.open(io.BytesIO(sheet[8:])))
    grid = grid.reshape(len(grid) // height, height, grid.shape[1] // width, width, -1)
    return grid.swapaxes(1, 2).reshape(-1, height, width, grid.shape[-1])[:count]


def expected(images):
    return to_uint8(images).movedim(1, -1).numpy()
