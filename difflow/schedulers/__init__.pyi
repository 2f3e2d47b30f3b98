from .levels import cosine_betas as cosine_betas
from .levels import iddpm_sigmas as iddpm_sigmas
from .levels import karras_sigmas as karras_sigmas
from .levels import linear_betas as linear_betas
from .levels import ve_sigmas as ve_sigmas
from .levels import vp_sigmas as vp_sigmas
from .respacing import space_timesteps as space_timesteps
from .scheduler import Scheduler as Scheduler
