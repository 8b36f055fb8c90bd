"""sfumato: diffusion and flow-matching models on any kind of data."""

__version__ = "0.1.0"
