"""Pictures from a folder, or an array of pictures or vectors in a .npy or .npz file."""
