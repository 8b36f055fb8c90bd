"""Pictures into a smaller space and back."""
