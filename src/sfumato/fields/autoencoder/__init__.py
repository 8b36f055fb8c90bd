"""Pictures into a smaller space and back, for runs that learn there."""
