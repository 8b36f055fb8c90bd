"""Tables: rows of numbers, categories, dates and gaps, alone or linked by keys."""
