"""Which noise levels there are: the published schedules, which of their levels to keep, and the grid."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
