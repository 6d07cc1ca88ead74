"""One model measured in a process of its own: crystals there and back, or a property predicted."""
