"""What an encoder sees along the way, and what can be read out of it."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
