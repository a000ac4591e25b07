"""minipref on NumPy arrays."""

import minipref

NAME, VERSION = "minipref on NumPy", minipref.__version__
globals().update(minipref.REGISTRY)
