from .root import app as app
from .root import main as main
