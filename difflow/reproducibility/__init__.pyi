from .agreement import denoiser_agreement as denoiser_agreement
from .scores import Score as Score
from .scores import gl_score as gl_score
from .scores import m_score as m_score
from .scores import nearest as nearest
from .scores import rp_matrix as rp_matrix
from .scores import rp_score as rp_score
from .scores import score as score
