"""How a simulated system fails, and how likely that is."""
