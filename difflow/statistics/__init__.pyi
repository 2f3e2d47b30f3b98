from .axes import snr_axis as snr_axis
from .intervals import bootstrap_interval as bootstrap_interval
from .intervals import mean_error as mean_error
from .intervals import per_image as per_image
from .transition import Transition as Transition
from .transition import fit_transition as fit_transition
