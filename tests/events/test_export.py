"""Events leave the box: a folder with a table, and DICOM that a PACS takes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from edge.cli import main
from edge.errors import StoreError
from edge.events import EventStore, NewEvent, export, render_evidence
from edge.events.clip import Clips, decode_webp, encode_webp
from edge.records import Event, Scores


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    """Two events, the first with a clip of 12 pictures."""
    store = EventStore(tmp_path / "store")
    scores = Scores(0.9, 0.95, 0.1, np.eye(4, dtype=np.float32))
    for exam_id in (1, 2):
        t_wall = f"2026-11-24T10:0{exam_id}:00.250+00:00"
        view = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (120, 1))
        image = render_evidence(view, scores, t_wall, exam_id, "student 0.1.0")
        store.commit(NewEvent(exam_id, "rtsp://***@h/s", 7, 0, t_wall, 0.95, 6.5, "student 0.1.0", image))
    store.attach_clip(1, encode_webp([np.full((64, 64), 10 * n, np.uint8) for n in range(12)], 80))
    return store


def test_a_clip_survives_its_encoding() -> None:
    moving = [np.full((64, 64), 20 * n, np.uint8) for n in range(10)]
    images, ms_each = decode_webp(encode_webp(moving, 80))
    assert ms_each == 80 and len(images) == 10
    assert all(np.abs(a.astype(int) - b).max() <= 4 for a, b in zip(images, moving, strict=True))


@pytest.mark.requirement("C-02")
def test_a_pause_in_a_clip_is_as_long_as_it_was() -> None:
    """A recorder's pause, two seconds long: the picture before it stays."""
    clips = Clips()
    stamps = [*range(0, 1000, 100), *range(3000, 5000, 100)]
    for n, ms in enumerate(stamps):
        clips.see(np.full((64, 64), 60 * (n % 4), np.uint8), ms * 1_000_000, 1)
        if ms == 3000:
            clips.flag((1, n), ms * 1_000_000)
    clips.finish()
    (((_, encoded)),) = clips.ready()
    images, ms_each = decode_webp(encoded.result())
    assert ms_each == 100 and len(images) == 50
    assert [round(images[at // 100].mean() / 60) for at in (0, 900, 2900, 3000, 4900)] == [0, 1, 1, 2, 1]


def test_a_folder_with_everything(store: EventStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export(store, out, dicom=True)
    assert [event.id for event in done.events] == [2, 1] and done.problems == ()
    assert {path.name for path in out.iterdir()} == {
        "events.json", "events.csv", "event1.png", "event1.webp", "event1.dcm", "event1-clip.dcm", "event2.png", "event2.dcm",
        "export.json",
    }  # fmt: skip
    rows = json.loads((out / "events.json").read_text())
    assert [(row["image_path"], row["clip_path"]) for row in rows] == [
        ("event2.png", ""),
        ("event1.png", "event1.webp"),
    ]
    with open(out / "events.csv", newline="") as file:
        assert [row["exam_id"] for row in csv.DictReader(file)] == ["2", "1"]


def test_dicom_holds_the_same_pictures_and_no_patient(store: EventStore, tmp_path: Path) -> None:
    store.review(1, "confirmed", "nurse Ödön 王")
    export(store, tmp_path, [1], dicom=True)
    still, clip = pydicom.dcmread(tmp_path / "event1.dcm"), pydicom.dcmread(tmp_path / "event1-clip.dcm")
    from PIL import Image

    assert np.array_equal(still.pixel_array, np.asarray(Image.open(tmp_path / "event1.png").convert("RGB")))
    images, _ = decode_webp((tmp_path / "event1.webp").read_bytes())
    assert np.array_equal(clip.pixel_array, np.stack(images)) and clip.FrameTime == 80
    for data in (still, clip):
        assert data.PatientName == data.PatientID == "" and data.BurnedInAnnotation == "NO"
        assert (data.ContentDate, data.ContentTime) == ("20261124", "100100.250000")
        assert "review confirmed by nurse Ödön 王" in data.ImageComments and "not a diagnosis" in data.ImageComments
    assert still.StudyInstanceUID == clip.StudyInstanceUID and still.SOPInstanceUID != clip.SOPInstanceUID
    export(store, tmp_path / "again", [1], dicom=True)
    assert pydicom.dcmread(tmp_path / "again" / "event1.dcm").SOPInstanceUID == still.SOPInstanceUID
    store.review(1, "dismissed", "nurse B")  # an archive would keep the first of two objects of one UID
    export(store, tmp_path / "later", [1], dicom=True)
    later = pydicom.dcmread(tmp_path / "later" / "event1.dcm")
    assert later.SOPInstanceUID != still.SOPInstanceUID and later.SeriesInstanceUID == still.SeriesInstanceUID


def test_dicom_claims_no_more_of_text_than_is_known(store: EventStore, tmp_path: Path) -> None:
    """An image of an earlier version may show a whole screen; nobody wrote down whether its fan was sure."""
    old, _ = cv2.imencode(".png", np.full((564, 960, 3), 9, np.uint8))[::-1]
    store.commit(NewEvent(3, "s", 7, 0, "2026-01-24T10:03:00+00:00", 0.95, 6.5, "student 0.1.0", old.tobytes()))
    store.attach_clip(3, encode_webp([np.full((64, 64), 10 * n, np.uint8) for n in range(12)], 80))
    export(store, tmp_path, [1, 3], dicom=True)
    told = {path.stem: pydicom.dcmread(path).get("BurnedInAnnotation") for path in tmp_path.glob("*.dcm")}
    assert told == {"event1": "NO", "event1-clip": "NO", "event3": None, "event3-clip": "YES"}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (apt install dicom3tools)")
@pytest.mark.parametrize("name", ["event1.dcm", "event1-clip.dcm"])
def test_dicom_is_valid(store: EventStore, tmp_path: Path, name: str) -> None:
    export(store, tmp_path, [1], dicom=True)
    done = subprocess.run(["dciodvfy", str(tmp_path / name)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert "SC" in said or "MultiframeGrayscaleByteSC" in said
    assert "Error" not in said, said


def test_an_altered_image_is_not_exported_and_the_others_are(
    store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (store.root / store.show(2).image_path).write_bytes(b"another")
    assert main(["events", "export", str(out), "--store", str(store.root)]) == 1
    assert "not the image that was committed with event 2; not exported" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {
        "events.json", "events.csv", "event1.png", "event1.webp", "export.json",
    }  # fmt: skip
    assert [row["id"] for row in json.loads((out / "events.json").read_text())] == [1]
    with pytest.raises(StoreError, match="there is no event 3"):
        export(store, out, [1, 3])


def test_a_folder_that_cannot_be_written_is_named(store: EventStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file.*cannot be exported"):
        export(store, tmp_path / "file" / "out")


@pytest.mark.requirement("S-09")
@pytest.mark.parametrize("left", ["whole", "older", "torn"])
def test_two_stores_exports_never_share_a_folder(store: EventStore, tmp_path: Path, left: str) -> None:
    """Event 1 of two rooms is two patients."""
    out = tmp_path / "stick"
    export(store, out)
    export(store, out)  # the same store again: its own files, newer
    if left == "older":  # versions before this one did not say whose an export is
        (out / "export.json").unlink()
    elif left == "torn":
        (out / "export.json").write_bytes(b"{")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = EventStore(tmp_path / "other")
    other.commit(NewEvent(1, "v4l2:/dev/video9", 7, 0, "2026-11-24T10:01:00+00:00", 0.95, 6.5, "student 0.1.0", b"other"))
    with pytest.raises(StoreError, match="holds the export of another event store"):
        export(other, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "holiday.jpg").write_bytes(b"")  # whatever else lies on a stick
    assert len(export(other, tmp_path / "mixed").events) == 1


@pytest.mark.requirement("S-09")
def test_a_store_that_was_copied_is_another_store(store: EventStore, tmp_path: Path) -> None:
    """A golden SD image gives two rooms one identity; their events of one number are still two patients."""
    store.identity()
    store.close()
    shutil.copytree(store.root, tmp_path / "room2")
    other = EventStore(tmp_path / "room2")
    for room, minute in ((store, 7), (other, 8)):
        t_wall = f"2026-11-24T11:0{minute}:00.250+00:00"
        room.commit(NewEvent(3, "rtsp://***@h/s", 7, 0, t_wall, 0.95, 6.5, "student 0.1.0", f"{minute}".encode()))
    export(store, tmp_path / "stick")
    before = {path.name: path.read_bytes() for path in (tmp_path / "stick").iterdir()}
    with pytest.raises(StoreError, match="event 3 there is another than this store's event 3"):
        export(other, tmp_path / "stick")
    assert {path.name: path.read_bytes() for path in (tmp_path / "stick").iterdir()} == before


@pytest.mark.requirement("S-09")
@pytest.mark.parametrize("name", ["event1-clip.dcm", "event12.webp", "event3.png"])
def test_loose_files_of_an_export_are_somebodys(store: EventStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / name).write_bytes(b"another room's")
    with pytest.raises(StoreError, match="holds the export of another event store"):
        export(store, tmp_path / "stick")


@pytest.mark.requirement("S-09")
def test_one_event_exported_again_leaves_the_others_in_the_table(store: EventStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    store.review(2, "confirmed", "A")
    export(store, tmp_path / "out", [2])
    rows = {row["id"]: row["review"] for row in json.loads((tmp_path / "out" / "events.json").read_text())}
    assert rows == {2: "confirmed", 1: "open"} and (tmp_path / "out" / "event1.png").is_file()


@pytest.mark.requirement("S-09")
def test_a_link_above_the_folder_is_refused_too(store: EventStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "exports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="exports: a link"):
        export(store, tmp_path / "stick" / "exports" / "x")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.requirement("S-09")
@pytest.mark.parametrize(
    "name", ["event1.png", "event1.webp", "event1-clip.dcm", "events.csv", "events.json", ".event1.png.unfinished"]
)
@pytest.mark.parametrize("there", [True, False])
def test_links_on_a_stick_lead_nowhere(store: EventStore, tmp_path: Path, name: str, there: bool) -> None:
    out, precious = tmp_path / "stick", tmp_path / "shadow"
    export(store, out, dicom=True)
    if there:
        precious.write_text("precious")
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(precious)
    export(store, out, dicom=True)
    assert precious.exists() == there and (not there or precious.read_text() == "precious")
    assert not (out / name).is_symlink()


@pytest.mark.requirement("S-09")
def test_a_folder_that_is_a_link_is_refused(store: EventStore, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "stick").symlink_to(tmp_path / "etc")
    with pytest.raises(StoreError, match="stick: a link; name the folder itself"):
        export(store, tmp_path / "stick")
    assert not list((tmp_path / "etc").iterdir())


@pytest.mark.requirement("S-09")
@pytest.mark.parametrize("by", ["=HYPERLINK(A1)", "+1", "-2+3", "@SUM(A1)", "=1+1"])
def test_a_name_is_no_formula_in_the_table(store: EventStore, tmp_path: Path, by: str) -> None:
    store.review(1, "confirmed", by)
    export(store, tmp_path / "out")
    with open(tmp_path / "out" / "events.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows["1"]["reviewed_by"] == f"'{by}" and float(rows["1"]["evidence"]) == 6.5
    assert json.loads((tmp_path / "out" / "events.json").read_text())[1]["reviewed_by"] == by


@pytest.mark.requirement("T-14")
def test_every_decision_on_an_event_is_kept(store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for review, by in (("confirmed", "A"), ("open", "A"), ("dismissed", "B"), ("dismissed", "C")):
        store.review(1, review, by)
    store.attach_clip(1, encode_webp([np.full((64, 64), 10 * n, np.uint8) for n in range(3)], 80))  # is no decision
    kept = [(review.review, review.reviewed_by) for review in store.reviews(1)]
    assert kept == [("confirmed", "A"), ("open", "A"), ("dismissed", "B"), ("dismissed", "C")]
    export(store, tmp_path / "out", [1])
    (row,) = json.loads((tmp_path / "out" / "events.json").read_text())
    assert [(r["review"], r["reviewed_by"]) for r in row["reviews"]] == kept and row["reviewed_by"] == "C"
    assert main(["events", "show", "1", "--store", str(store.root)]) == 0
    assert "confirmed by A" in capsys.readouterr().out


def test_the_commands(store: EventStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(store.root)]
    assert main(["events", "review", "1", "dismissed", "--by", "nurse A", *where]) == 0
    assert main(["events", "pin", "2", *where]) == 0
    capsys.readouterr()
    assert main(["events", "list", *where]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split()[0] == "2" and "pinned" in listed[0] and "dismissed by nurse A" in listed[1]
    assert main(["events", "show", "1", *where]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["reviewed_by"] == "nurse A" and (shown["review"], shown["pinned"]) == ("dismissed", "False")
    assert Path(shown["image_path"]).is_file() and Path(shown["clip_path"]).is_file()
    assert main(["events", "show", "2", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("reviews") == [] and Event(**told) == store.show(2)
    assert main(["events", "export", str(tmp_path / "out"), "1", "--dicom", *where]) == 0
    assert (tmp_path / "out" / "event1-clip.dcm").is_file() and not (tmp_path / "out" / "event2.png").exists()


def test_without_a_store_named_it_is_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("edge.watching.why_unwritable", lambda folder: "not for tests")
    EventStore(tmp_path / "hygroma").open()
    assert main(["events", "list"]) == 0
    assert "no events" in capsys.readouterr().out
