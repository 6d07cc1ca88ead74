"""Latents fitted to their crystals, by the decoders alone."""
