"""How a simulated system fails and how likely that is: samples of failures, their modes, a probability with honest bars."""
