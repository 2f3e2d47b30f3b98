"""Load anyone's weights, run nobody's code, save ours."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
