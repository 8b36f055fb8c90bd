"""Docking: poses of a small molecule in a known pocket, ranked, its bonds and chirality kept by construction."""
