"""How a denoiser moves: its Jacobian, spectrum and rank."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
