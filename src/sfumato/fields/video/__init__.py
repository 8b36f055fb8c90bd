"""Clips from words, from first frames, and on and on."""
