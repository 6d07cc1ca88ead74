"""New crystals from latents: around given ones, between two, and at random."""
