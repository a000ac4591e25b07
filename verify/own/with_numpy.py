"""minipref on NumPy arrays."""

import minipref

NAME, VERSION = "minipref (NumPy)", minipref.__version__
globals().update(minipref.REGISTRY)
