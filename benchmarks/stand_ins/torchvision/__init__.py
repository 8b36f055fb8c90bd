"""Stand-in for the few functions of torchvision that the peers import; see ``benchmarks/peers.py``."""

from torchvision import transforms, utils

__all__ = ["transforms", "utils"]
