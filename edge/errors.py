"""Every error that hygroma-edge raises on purpose. The message names the file or field, the value found, and the fix.

HygromaError
|- ConfigError    a configuration file or flag is wrong
|- BundleError    a model bundle is missing, damaged or of another schema
|- InputError     an image, clip or data set cannot be read
|- SourceError    a live source cannot be opened, or was lost
|- EngineError    an inference engine cannot be built or run, or fails its self-test
|- StoreError     the event store cannot be opened or written
|  `- NoSuchEvent  it holds no event of that number
`- GateError      a conversion lost more than its gate allows
"""

from __future__ import annotations


class HygromaError(Exception):
    """Root of the tree. `exit_code` is what the command line returns for it (sysexits.h where one fits)."""

    exit_code = 1


class ConfigError(HygromaError):
    exit_code = 78  # EX_CONFIG


class BundleError(HygromaError):
    exit_code = 65  # EX_DATAERR


class InputError(HygromaError):
    exit_code = 66  # EX_NOINPUT


class SourceError(HygromaError):
    exit_code = 69  # EX_UNAVAILABLE


class EngineError(HygromaError):
    exit_code = 70  # EX_SOFTWARE


class StoreError(HygromaError):
    exit_code = 74  # EX_IOERR


class NoSuchEvent(StoreError):
    pass


class GateError(HygromaError):
    exit_code = 3
