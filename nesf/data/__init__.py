"""Crystals in and out: readers, writers, packed sets, prototypes, the Materials Project."""
