"""The user's own folder, for who named no other place."""

from __future__ import annotations

from pathlib import Path

from edge.errors import ConfigError


def home(option: str) -> Path:
    """ConfigError, naming the option that makes it needless, for a user without one: a container's, or a service's."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"this user has no home folder (HOME is not set); name a folder with {option}") from None
