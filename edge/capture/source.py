"""The contract of a source, and what it says about itself."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from edge.records import Frame

_Openable = TypeVar("_Openable", bound="OpenClose")


@runtime_checkable
class Source(Protocol):
    """Open on enter, close on exit; may be opened again after a close, and then goes on counting its frames.

    `live`: it can be lost and come back, and only its newest frame matters. `media_time`: its stamps are the clip's own
    time laid out from the moment of opening, not the time of capture (see Pacer). `decode_errors`: pictures that
    arrived damaged. `missed`: pictures that were captured and lost before they reached us, as far as the driver says.
    `format`: what was negotiated, and what was made of it (square pixels, times), in words, "" before that. A source may
    also have `trouble` (what is wrong though pictures come), `damage` (what was wrong with the newest picture), both in words
    and "" when nothing is, and `restamped` (pictures whose stamp could not be right).
    """

    name: str  # may be shown: credentials removed
    live: bool
    media_time: bool
    decode_errors: int
    missed: int

    @property
    def format(self) -> str: ...

    def open(self) -> None:
        """InputError (a file) or SourceError (a live source), naming it."""
        ...

    def read(self) -> Frame | None:
        """The next frame, waiting for it. None: the source has ended. SourceError: it was lost."""
        ...

    def close(self) -> None:
        """Safe to call at any time, more than once."""
        ...


class OpenClose:
    """What every source of this package shares: open on enter, close on exit."""

    def __enter__(self: _Openable) -> _Openable:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
