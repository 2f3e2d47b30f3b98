from .levels import karras_sigmas as karras_sigmas
from .respacing import space_timesteps as space_timesteps
from .scheduler import Scheduler as Scheduler
