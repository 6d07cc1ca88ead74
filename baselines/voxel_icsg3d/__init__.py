"""ICSG3D, the voxel pipeline of Court et al. 2020: voxels, VAE, U-Net, watershed, CGCNN."""
