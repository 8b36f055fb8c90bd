"""Pictures from words, learned from captioned pictures."""
