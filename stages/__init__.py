"""The pipeline's programs."""

import sys


def _in_a_word(kind, error, traceback) -> None:
    """Ctrl-C while modules are still being imported, which takes seconds; later pilot.runtime.cli sees it."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _in_a_word
