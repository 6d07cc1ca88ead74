"""Errors that a user can mend; the command line prints them as one sentence and exits with 2."""


class NesfError(Exception):
    """Base of every error whose message alone tells the user what to mend."""


class InputError(NesfError):
    """A file, row, option or folder that cannot be used as given."""


class CheckpointError(NesfError):
    """A checkpoint or weights file that is damaged, foreign, or of another version."""
