"""VoxelNet: properties from voxels of reciprocal space."""
