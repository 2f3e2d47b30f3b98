"""Image sets as tensors, and tensors as pictures."""
from . import doors

__getattr__, __dir__, __all__ = doors.open_door(__name__, __file__)
