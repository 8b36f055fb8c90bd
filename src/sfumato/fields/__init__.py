"""A folder for each field of use; it is found by being there."""

PLAIN = "images"
"""The field of `sfumato train DATA`, where no name comes first."""
DEMO = "captions"
"""The field of `sfumato demo`."""
