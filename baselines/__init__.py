"""Systems that `nesf` is compared with, behind the same interface."""
