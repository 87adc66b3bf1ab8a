"""The one exception that a user is meant to read."""


class PilotError(Exception):
    """Bad input, said in one line: what is wrong, where, and the way out.

    Every command turns it into that line on standard error and exit status 2.
    """
