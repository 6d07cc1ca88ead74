"""`nesf compare`: models trained on equal terms, scored alike, and shown side by side."""
