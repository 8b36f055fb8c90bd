"""Ensemble forecasts of gridded fields."""
