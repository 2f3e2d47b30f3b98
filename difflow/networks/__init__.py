"""The networks of the field, under the names that their state dicts have."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
