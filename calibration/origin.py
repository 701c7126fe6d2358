"""Where a data set comes from, as a file beside it says: what a bundle made of it must name, and what it cannot show.

Beside `site.csv`, or the folder `site`, lies `site.source.yaml`:

    name: Dataset for Fetus Framework
    licence: CC BY 4.0
    citation: 'Cui C, Dong F (2022), Mendeley Data V1, doi:10.17632/n2rbrb9t4f.1'
    limits: [The nuchal views come from one hospital.]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import InputError
from edge.schema import Decoder, Rule, rule
from edge.yaml_file import parse_yaml

SUFFIX = ".source.yaml"
MOST = 1000  # characters of a text: as many as a bundle's manifest takes


@dataclass(frozen=True)
class Origin:
    """name, licence, citation: for the bundle's card. limits: sentences that hold of every model made of these images."""

    name: str
    licence: str
    citation: str
    limits: list[str] = field(default_factory=list, metadata=rule(low=0))


class _Decoder(Decoder):
    whole, mapping = "the file", "a mapping of name, licence and citation"
    rules = {str: Rule(low=1, high=MOST), list: Rule(low=0)}


def origin_file(source: Path) -> Path:
    """Beside a data set's table or folder."""
    return source.parent / f"{source.stem}{SUFFIX}"


def read_origin(source: Path) -> Origin | None:
    """What the file beside a data set says; None where there is none. InputError names the file and the key."""
    path = origin_file(source)
    if not path.is_file():
        return None
    try:
        raw = parse_yaml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    return _Decoder(str(path), InputError).dataclass(Origin, raw)
