"""Pictures from a folder or an array."""
