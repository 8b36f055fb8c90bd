"""What people did, in files: zarr replay buffers, LeRobot datasets and .npz, read and written."""
