"""The figures' file: one section a campaign, each with the day it ran and how busy the machine was. A campaign that is run again
replaces its section and leaves the others as they are."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from pathlib import Path

Rows = list[tuple[str, str, str]]  # what, how often, the figure

HEAD = """# Faults

`make torture` and `make fuzz`: what was done to processes of the real loop, store, page and updates, and what came of it. The
camera is a process of ours; the model is a fake that flags every exam, but for the bad bundles, which `hygroma update` and
`hygroma run` themselves meet; screen reading is a fake too but for one soak, on the shipped clip's pictures (simulated).
A process stopped in the middle of a commit commits that flag late; its age is stored with it. Where the load was above
the number of cores, the times are also those of other work on the machine, and the counts are what to read.
"""


def load() -> float:
    """Processes that ran or wanted to, over the last minute."""
    return os.getloadavg()[0]


def write_section(out: Path, title: str, rows: Rows, load_before: float, order: tuple[str, ...]) -> None:
    """Puts `title`'s rows into the file at `out`, made if it is not there, its sections in `order`."""
    sections = _read(out)
    table = ["| what | n | figure |", "|---|---:|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    where = f"{when}, {os.cpu_count()} cores, load average {load_before:.1f} before and {load():.1f} at the end."
    sections[title] = "\n".join((where, "", *table))
    known = [title for title in order if title in sections]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([HEAD, *(f"## {title}\n\n{sections[title]}\n" for title in known)]), encoding="utf-8")


def _read(out: Path) -> dict[str, str]:
    if not out.exists():
        return {}
    _, *parts = re.split(r"^## ", out.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: body.strip() for title, _, body in (part.partition("\n") for part in parts)}
