"""Robot control, learned from demonstrations."""
