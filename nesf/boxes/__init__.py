"""Boxes: cubes that hold a finite cluster or a part of a repeating crystal; not periodic."""
