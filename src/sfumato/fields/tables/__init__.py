"""Tables: rows of numbers, categories, dates and gaps, from CSV, parquet or JSON lines."""
