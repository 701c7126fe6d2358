"""Whether the plane head is judged on what the picture shows, however it was cut."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from calibration.bank import BANK_SIZE, UNKNOWN, Bank, Entry  # noqa: E402
from edge.screen.preprocess import Preprocessing  # noqa: E402
from export.report.evidence import held_out  # noqa: E402
from export.report.framing import ASPECT, CUT, aspects, cut_stills, framing_rows, framing_table  # noqa: E402
from export.report.html import _framing  # noqa: E402

COUNT = 40


@pytest.fixture
def bank() -> Bank:
    """Standard planes are wide, others tall; nothing else tells them apart."""
    rng = np.random.default_rng(0)
    crops = np.zeros((COUNT, BANK_SIZE, BANK_SIZE), np.uint8)
    entries = []
    for i in range(COUNT):
        height, width = (150 + i, BANK_SIZE) if i % 2 else (BANK_SIZE, 200)
        top, left = (BANK_SIZE - height) // 2, (BANK_SIZE - width) // 2
        crops[i, top : top + height, left : left + width] = rng.integers(1, 255, (height, width))
        entries.append(Entry(i, "real", 0, float(i % 2), UNKNOWN, UNKNOWN, None))
    return Bank(crops, entries)


def part(bank: Bank, plane: np.ndarray, cut: np.ndarray) -> dict[str, np.ndarray]:
    nothing, maps = np.zeros(COUNT), np.zeros((COUNT, 2, 2))
    out = {"index": np.arange(COUNT), CUT: cut, ASPECT: aspects(bank, np.arange(COUNT))}
    for form in ("teacher", "student", "qdq"):
        out |= {f"{form}_hygroma": nothing, f"{form}_plane": plane, f"{form}_map": maps}
    return out


def test_a_head_that_reads_the_cut_is_found_out(bank: Bank) -> None:
    spec, stills = Preprocessing(size=64), np.arange(COUNT)
    cut = cut_stills(bank, stills, spec, [0])
    assert cut.shape == (COUNT, 64, 64) and np.array_equal(cut, cut_stills(bank, stills, spec, [0]))
    bars = lambda crops: np.array([(c == 0).all(1).mean() - (c == 0).all(0).mean() for c in crops])  # noqa: E731
    as_they_are = bars(bank.crops)
    data = held_out("validation", bank, {"validation": part(bank, as_they_are, bars(cut))})
    found = {row["split"].partition(", ")[2]: row for row in framing_rows([data])}
    assert found["as they are"]["auc"] == 1.0 and found["by their aspect alone"]["auc"] == 1.0
    assert abs(found["cut anew"]["auc"] - 0.5) < 0.25 and found["cut anew"]["n"] == COUNT
    table = framing_table(framing_rows([data]))
    assert table is not None and table.kind == "real" and [row.n for row in table.rows] == [COUNT] * 3
    assert "cut anew" in "".join(_framing(framing_rows([data])))


def test_an_aspect_that_points_the_other_way_tells_as_much(bank: Bank) -> None:
    entries = [Entry(e.still, e.source, e.fold, 1 - e.plane, e.hygroma, e.thickness_mm, None) for e in bank.entries]
    other = Bank(bank.crops, entries)
    data = held_out("validation", other, {"validation": part(other, np.zeros(COUNT), np.zeros(COUNT))})
    assert framing_rows([data])[2]["auc"] == 1.0


def test_where_it_was_not_measured_there_is_no_row_and_no_table(bank: Bank) -> None:
    bare = {k: v for k, v in part(bank, np.zeros(COUNT), np.zeros(COUNT)).items() if k not in (CUT, ASPECT)}
    assert framing_rows([held_out("validation", bank, {"validation": bare})]) == []
    assert framing_table([]) is None and _framing([]) == []
