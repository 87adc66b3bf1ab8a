"""What the `language` extra installs, asked for when it is first needed: the rest of the library does without."""

from __future__ import annotations

from types import ModuleType

from pilot.errors import PilotError

INSTALL = "language models need an extra: pip install 'pilot-patching[language]'"


def require_transformers() -> ModuleType:
    """The package transformers. Raises PilotError, which says what to install, where it cannot be imported."""
    try:
        import transformers
    except ImportError:
        raise PilotError(INSTALL) from None
    return transformers
