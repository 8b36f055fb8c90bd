"""Pictures from words: captioned pictures in a folder, or listed in a .csv, .jsonl or .parquet file."""
