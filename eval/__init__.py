"""Scores, tables and pictures for any two sets of crystals (`from eval.metrics import ...`)."""
