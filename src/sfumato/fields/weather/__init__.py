"""Weather: an ensemble forecast of gridded fields from their past, in NetCDF or zarr."""
