"""See what a diffusion model knows at each noise level."""
__version__ = "0.1.0"
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
