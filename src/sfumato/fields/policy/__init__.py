"""Robot control: what was seen -> what to do next, learned from demonstrations."""
