"""Text or code: written, filled in, scored, repaired."""
