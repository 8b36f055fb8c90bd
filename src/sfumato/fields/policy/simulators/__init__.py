"""Simulators that a policy plays in: trials, films and recordings."""
