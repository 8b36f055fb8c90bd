"""Each claim of speed or quality is one command here, its peer measured in the same run."""
