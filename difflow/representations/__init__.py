"""What an encoder sees along the way, and what can be read out of it."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
