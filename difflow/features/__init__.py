"""What other networks see in an image: classifiers, descriptors, distances between sets."""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
