"""Rows of numbers, words, dates and gaps; linked tables."""
