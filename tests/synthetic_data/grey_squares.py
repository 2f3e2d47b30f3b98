"""Images that any classifier tells apart"""

import torch

from difflow import ImageSet


def squares(n, classes=2, size=8, channels=1, seed=0):
    "Uniform grey levels, one a class, with a little noise"
    labels = torch.arange(n) % classes
    levels = (labels * 200 // (classes - 1) + 20)[:, None, None, None]
    noise = torch.randint(-15, 16, (n, channels, size, size), generator=torch.Generator().manual_seed(seed))
    return ImageSet((levels + noise).clamp(0, 255).to(torch.uint8), labels)
