"""Tables as spreadsheets save them, and names as other systems write them."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.open_dataset import open_dataset
from calibration.table import find_named, name_of, number, read_table
from edge.errors import InputError

CELLS = [["a.png", "Müller", "3,5"], ["b c.png", "O'Brien", ""], ["d.png", "", "7.25"]]
COLUMNS = ["path", "patient", "mm"]


def as_text(separator: str, end: str, before: str, empties: int, quoted: bool) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(COLUMNS + [""] * empties)
    for row in CELLS:
        writer.writerow(row + [""] * empties)
        if empties:
            writer.writerow([""] * (len(COLUMNS) + empties))
    return before + out.getvalue()


@pytest.mark.requirement("P-06")
@given(
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    hint=st.booleans(),
    empties=st.integers(0, 3),
    quoted=st.booleans(),
)
def test_however_a_spreadsheet_saves_it_a_table_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    separator: str, end: str, encoding: str, hint: bool, empties: int, quoted: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("table") / "t.csv"
    before = f"sep={separator}{end}" if hint else ""
    path.write_bytes(as_text(separator, end, before, empties, quoted).encode(encoding))
    table = read_table(path, COLUMNS)
    assert table.columns == tuple(COLUMNS)
    assert [list(row.cells.values()) for row in table.rows] == CELLS
    assert [number(row.cells["mm"]) for row in table.rows] == [3.5, None, 7.25]


@pytest.mark.requirement("P-06")
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'path,patient,mm\na,"b,1\nc,d,2\n', "line 2: a quote that is not closed"),
        (b'path,patient,mm\na,"b"x,1\n', "line 2: a quote"),
        ("path,patient,mm\na,b,1\nc,Müller,2\n".encode("latin-1"), "line 3: not UTF-8 .byte 0xfc, 'ü' in Latin-1.*CSV UTF-8"),
        ("path,patient,mm\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("path,patient,mm\nab".encode("utf-16")[:-1], "cut off in the middle of a letter"),
        (b"PK\x03\x04rest", "a spreadsheet's own file; save it as CSV UTF-8"),
        (b"path,patient\na,b\n", "columns path, patient; mm missing"),
        (b"", "columns none"),
        (b"path,patient,mm,mm\n", "'mm' given more than once"),
        (b"path,patient,mm\na,b,1,2\n", "line 2: more cells than columns"),
        (b"path,patient,mm,\na,b,1,2\n", "line 2: '2' in column 4, which has no name"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=f"t.csv.*{told}"):
        read_table(tmp_path / "t.csv", COLUMNS)


@pytest.mark.requirement("P-06")
@given(st.binary(max_size=200))
def test_whatever_bytes_a_table_has_they_are_answered_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(data)
    try:
        assert all(set(row.cells) == set(read_table(path).columns) for row in read_table(path).rows)
    except InputError as error:
        assert "t.csv" in str(error)


# -- in every command's tables


def site(folder: Path, names: list[str]) -> Path:
    """Two classes with those pictures each."""
    rng = np.random.default_rng(0)
    for kind in ("hygroma", "normal"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            _, data = cv2.imencode(".png", rng.integers(0, 255, (20, 30), np.uint8))
            Path(folder / kind / name).write_bytes(data.tobytes())
    return folder


NAMES = ["ä1.png", "ö2.png", "b3.png", "c4.png"]


@pytest.mark.requirement("P-06")
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_patients_are_read_however_they_were_saved(tmp_path: Path, separator: str, encoding: str) -> None:
    data = site(tmp_path / "data", NAMES)
    lines = [f"sep={separator}", separator.join(("path", "hygroma", "patient", "split"))]
    for kind in ("hygroma", "normal"):
        finding = str(int(kind == "hygroma"))
        lines += [separator.join((f"{kind}\\{name}", finding, f"P{kind}{n}", f"{n}.0")) for n, name in enumerate(NAMES)]
    lines += [separator * 3] * 5
    (data / "p.csv").write_bytes("\r\n".join(lines).encode(encoding))
    images = open_dataset(data / "p.csv").images
    assert len(images) == 8 and [image.fold for image in images[:4]] == [0, 1, 2, 3]


@pytest.mark.requirement("P-06")
def test_numbers_are_read_however_they_were_saved(tmp_path: Path) -> None:
    data = site(tmp_path / "data", ["a.png"])
    lines = ["sep=;", "path;hygroma;plane;nt_box;thalami_box;nt_mm", "normal/a.png;0,0;Standard;1,5 2 9,5 4;1 7 12,5 9;3,25"]
    (data / "p.csv").write_text("\n".join(lines), "utf-8-sig")
    (image,) = open_dataset(data / "p.csv").images
    assert image.anatomy is not None and image.anatomy.nt == (1.5, 2, 9.5, 4) and image.nt_mm == 3.25 and image.hygroma == 0


# -- names


@pytest.mark.requirement("P-07")
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path, on_disk: str, in_table: str) -> None:
    names = [unicodedata.normalize(on_disk, name) for name in NAMES]
    data = site(tmp_path / "data", names)
    rows = [f"{kind}/{name},{int(kind == 'hygroma')},{kind}{name}" for kind in ("hygroma", "normal") for name in NAMES]
    (data / "p.csv").write_text("path,hygroma,patient\n" + unicodedata.normalize(in_table, "\n".join(rows)), "utf-8")
    images = open_dataset(data / "p.csv").images
    assert len(images) == 8
    for image in images:
        assert find_named(data, image.name) == image.path and unicodedata.is_normalized("NFC", image.name)


@pytest.mark.requirement("P-07")
@pytest.mark.skipif(os.name != "posix", reason="names are text there")
@pytest.mark.parametrize("raw", [b"M\xfcller.png", b"\xff.png", b"a\xe4\xf6.png"])
def test_a_name_that_is_no_utf_8_can_be_written_and_found(tmp_path: Path, raw: bytes) -> None:
    data = site(tmp_path / "data", ["a.png"])
    try:
        path = Path(os.fsdecode(os.fsencode(data / "normal") + b"/" + raw))
        path.write_bytes((data / "normal/a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    found = {image.path: image.name for image in open_dataset(data).images}[path]
    found.encode("utf-8")
    assert f"<{max(raw):02x}>" in found and found == name_of(path, data) and find_named(data, found) == path


@pytest.mark.requirement("P-07")
def test_two_files_of_one_name_are_told(tmp_path: Path) -> None:
    data = site(tmp_path / "data", ["ä.png"])
    other = data / "normal" / unicodedata.normalize("NFD", "ä.png")
    if other.exists():
        pytest.skip("this file system takes both for one")
    other.write_bytes((data / "normal/ä.png").read_bytes())
    with pytest.raises(InputError, match="two files of one name, written differently: normal/ä.png"):
        open_dataset(data)
