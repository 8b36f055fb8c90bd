"""A folder of text or code: written, filled in and scored, by masked tokens."""
