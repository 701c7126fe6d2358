"""Events into a folder: images, clips, a table, and DICOM where asked for. What is handed on is checked against its hash.

The folder often lies on a stick that anybody may have prepared. So nothing in it is followed or trusted: a link is replaced, not
written through, and a folder with another store's export is refused, since event 1 of two rooms is two patients.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge.errors import StoreError
from edge.events.store import EventStore
from edge.records import Event

OF_EVENT = re.compile(r"event[0-9]+(-clip)?\.(png|webp|dcm)$")
TABLES_MAX = 2**26  # bytes of an earlier export's events.json
TABLES = ("events.json", "events.csv")
WHOSE = "export.json"  # which store the folder's files are of
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes text that begins so for a formula, and runs it


@dataclass(frozen=True)
class Exported:
    """`problems`: of events whose evidence is missing or was altered; nothing of them was written."""

    events: tuple[Event, ...]
    problems: tuple[str, ...]


def export(
    store: EventStore, folder: str | Path, event_ids: Iterable[int] | None = None, dicom: bool = False
) -> Exported:
    """`events.json`, `events.csv`, and of each event (default: all) event1.png, event1.webp where there is a clip, and with
    `dicom` event1.dcm and event1-clip.dcm, into `folder` (made if needed). StoreError: no such event, no space, or a folder that
    holds another store's export, or is a link."""
    events = store.events(limit=-1) if event_ids is None else [store.show(event_id) for event_id in event_ids]
    done: list[Event] = []
    rows: list[dict[str, object]] = []
    problems: list[str] = []
    with _opened(Path(folder), store.identity()) as out:
        earlier = _earlier(out)
        for event in events:
            _check_same(out.path, event, earlier.pop(event.id, None))
        for event in events:
            try:
                image, clip = store.image(event), store.clip(event)
            except StoreError as error:  # one rotten file must not keep the others on the box
                problems.append(str(error))
                continue
            stem = f"event{event.id}"
            out.put(f"{stem}.png", image)
            if clip is not None:
                out.put(f"{stem}.webp", clip)
            else:
                out.remove(f"{stem}.webp", f"{stem}-clip.dcm")
            if dicom:
                _put_dicom(out, stem, event, image, clip)
            row = {**asdict(event), "image_path": f"{stem}.png", "clip_path": f"{stem}.webp" if clip is not None else ""}
            rows.append({**row, "reviews": [asdict(review) for review in store.reviews(event.id)]})
            done.append(event)
        rows += earlier.values()
        out.put("events.json", (json.dumps(rows, indent=2) + "\n").encode())
        out.put("events.csv", _table(rows).encode())
    return Exported(tuple(done), tuple(problems))


def _earlier(out: _Folder) -> dict[int, dict[str, object]]:
    """The rows of this store's earlier export into the folder, by event. StoreError when they cannot be read."""
    text = out.read("events.json", TABLES_MAX)
    if text is None:
        return {}
    try:
        return {int(row["id"]): dict(row) for row in json.loads(text)}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{out.path / 'events.json'}: not an export's table; give a new or an empty folder") from error


def _check_same(folder: Path, event: Event, row: dict[str, object] | None) -> None:
    """A store that was copied has the same identity, and other events of the same numbers."""
    if row is not None and any(row.get(name) != getattr(event, name) for name in ("exam_id", "frame_id", "t_wall", "source")):
        raise StoreError(
            f"{folder}: event {event.id} there is another than this store's event {event.id}; give a new or an empty folder"
        )


def _put_dicom(out: _Folder, stem: str, event: Event, image: bytes, clip: bytes | None) -> None:
    from edge.events.dicom import clip_object, still_object

    out.put(f"{stem}.dcm", still_object(event, image))
    if clip is not None:
        out.put(f"{stem}-clip.dcm", clip_object(event, clip, image))


def _table(rows: list[dict[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [item.name for item in fields(Event)], extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """What a spreadsheet shows as it stands: of text that it would run, the apostrophe in front says that it is text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


@dataclass(frozen=True)
class _Folder:
    """A folder that is held open: what is put there lands there, whatever becomes of its name meanwhile."""

    path: Path
    handle: int

    def put(self, name: str, data: bytes) -> None:
        """A file, whole or not at all. A link of that name is replaced."""
        unfinished = f".{name}.unfinished"
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=self.handle)
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=self.handle)
        with open(file, "wb") as stream:
            stream.write(data)
        os.replace(unfinished, name, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, *names: str) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.handle)

    def read(self, name: str, most: int = 4096) -> bytes | None:
        """A file's first `most` bytes; None where there is none."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.handle)
        except OSError:
            return None
        with open(file, "rb") as stream:
            return stream.read(most)


@contextmanager
def _opened(path: Path, identity: str) -> Iterator[_Folder]:
    try:
        if link := _link_in(path):
            raise StoreError(f"{link}: a link; name the folder itself, since a stick's link may lead anywhere")
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise _said(path, error) from error
    folder = _Folder(path, handle)
    try:
        _check_whose(folder, identity)
        folder.put(WHOSE, (json.dumps({"store": identity}) + "\n").encode())
        yield folder
    except OSError as error:
        raise _said(path, error) from error
    finally:
        os.close(handle)


def _link_in(path: Path) -> Path | None:
    """The first link among a folder and those above it on the same disk; None without one."""
    for place in (path.absolute(), *path.absolute().parents):
        if place.is_symlink():
            return place
        if place.is_dir() and os.path.ismount(place):
            return None
    return None


def _check_whose(folder: _Folder, identity: str) -> None:
    """StoreError for a folder with an export that is not this store's, or of which nobody knows whose it is."""
    there = set(os.listdir(folder.handle))
    try:
        whose = json.loads(folder.read(WHOSE) or b"{}").get("store", "")
    except (ValueError, AttributeError):
        whose = ""
    if whose != identity and (WHOSE in there or there.intersection(TABLES) or any(OF_EVENT.match(name) for name in there)):
        raise StoreError(
            f"{folder.path}: holds the export of another event store, and its event 1 is another patient than this one's;"
            " give a new or an empty folder"
        )


def _said(path: Path, error: OSError) -> StoreError:
    name = error.filename if isinstance(error.filename, (str, os.PathLike)) else ""
    where = path if not name or Path(name) == path else path / str(name).removeprefix(".").removesuffix(".unfinished")
    return StoreError(f"{where}: cannot be exported ({error.strerror or error}); check space and permissions")
