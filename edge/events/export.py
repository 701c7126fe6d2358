"""Events into a folder: images, clips, a table, and DICOM where asked for. What is handed on is checked against its hash."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge.errors import StoreError
from edge.events.store import EventStore
from edge.records import Event


@dataclass(frozen=True)
class Exported:
    """`problems`: of events whose evidence is missing or was altered; nothing of them was written."""

    events: tuple[Event, ...]
    problems: tuple[str, ...]


def export(
    store: EventStore, folder: str | Path, event_ids: Iterable[int] | None = None, dicom: bool = False
) -> Exported:
    """`events.json`, `events.csv`, and of each event (default: all) event1.png, event1.webp where there is a clip, and with
    `dicom` event1.dcm and event1-clip.dcm, into `folder` (made if needed). StoreError: no such event, or no space."""
    events = store.events(limit=-1) if event_ids is None else [store.show(event_id) for event_id in event_ids]
    folder = Path(folder)
    done, rows, problems = [], [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for event in events:
            try:
                image, clip = store.image(event), store.clip(event)
            except StoreError as error:  # one rotten file must not keep the others on the box
                problems.append(str(error))
                continue
            rows.append(_export_one(folder, event, image, clip, dicom))
            done.append(event)
        (folder / "events.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        with open(folder / "events.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [item.name for item in fields(Event)])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        where = error.filename or folder
        raise StoreError(
            f"{where}: cannot be exported ({error.strerror or error}); check space and permissions"
        ) from error
    return Exported(tuple(done), tuple(problems))


def _export_one(folder: Path, event: Event, image: bytes, clip: bytes | None, dicom: bool) -> dict[str, object]:
    stem = f"event{event.id}"
    (folder / f"{stem}.png").write_bytes(image)
    if clip is not None:
        (folder / f"{stem}.webp").write_bytes(clip)
    if dicom:
        from edge.events.dicom import write_clip, write_still

        write_still(folder / f"{stem}.dcm", event, image)
        if clip is not None:
            write_clip(folder / f"{stem}-clip.dcm", event, clip, image)
    return {**asdict(event), "image_path": f"{stem}.png", "clip_path": f"{stem}.webp" if clip is not None else ""}
