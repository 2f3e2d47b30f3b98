"""A folder that many processes fill, that may be killed, and that ends with the same bytes."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
