"""Image sets as tensors, and tensors as pictures."""
from .doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
