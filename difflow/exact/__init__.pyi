from .gaussian import GaussianDenoiser as GaussianDenoiser
from .hierarchy import HierarchyDenoiser as HierarchyDenoiser
from .hierarchy import RandomHierarchy as RandomHierarchy
from .hierarchy import show_derivation as show_derivation
from .mean_field import EpsilonProcess as EpsilonProcess
from .molrg import MoLRG as MoLRG
from .molrg import MoLRGDenoiser as MoLRGDenoiser
from .optimal import OptimalDenoiser as OptimalDenoiser
