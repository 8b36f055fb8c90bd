"""Cloth: what warp and weft make."""
