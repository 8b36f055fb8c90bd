"""Poses of a small molecule in a known pocket, ranked."""
