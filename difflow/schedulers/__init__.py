"""Which noise levels there are: the published schedules, which of their levels to keep, and the grid."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
