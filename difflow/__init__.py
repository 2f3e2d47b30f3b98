"""See what a diffusion model knows at each noise level."""
__version__ = "0.1.0"
from .data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
