"""Noise an image to every level, bring it back: what survived?"""
from ..data.doors import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
