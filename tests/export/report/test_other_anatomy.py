"""Other anatomy: shares and areas against what the definition gives."""

from __future__ import annotations

import html

import numpy as np
import pytest

pytest.importorskip("torch")

from export.report.html import _other_anatomy
from export.report.other_anatomy import (
    MET,
    MISSED,
    NOBODYS,
    ONE_SITE,
    UNSHOWN,
    Caveats,
    Judged,
    other_anatomy_table,
    unfamiliar,
)


def judged(plane: list[float], distance: list[float], name: str, patients: int = 0) -> Judged:
    n = len(plane)
    return Judged(
        [f"{name}{i % (patients or n)}" for i in range(n)], np.ones(n, bool), np.array(plane), np.array(distance)
    )


PLANES = judged([0.9] * 90 + [0.6] * 8 + [0.1] * 2, [1.0] * 100, "P")
OVARIES = judged([0.7, 0.2, 0.2, 0.8], [1.0, 1.0, 1.0, 9.0], "O")
LUNGS = judged([0.05] * 6, [9.0] * 6, "L", patients=2)


def test_shares_and_areas() -> None:
    found = unfamiliar(PLANES, {"ovaries": OVARIES, "lungs": LUNGS}, 0.5, 2.0)
    assert found["planes"] == 100 and found["kept"]["shipped"]["value"] == pytest.approx(0.98)
    ovaries, lungs, both = found["rows"]
    assert (ovaries["n"], lungs["n"], lungs["patients"], both["n"]) == (4, 6, 2, 10)
    assert ovaries["shipped"]["value"] == 0.25  # one is close and looks like a plane; the far one is refused
    assert lungs["shipped"] == pytest.approx(
        {"value": 0.0, "low": 0.0, "high": 1 - 0.025 ** (1 / 2)}
    )  # two clips, not six images
    assert both["shipped"]["value"] == pytest.approx(0.1) and found["verdict"] == MISSED
    assert found["plane_threshold"]["matched"] == pytest.approx(0.6) and found["kept"]["matched"]["value"] == 0.98
    assert lungs["auc_plane"]["value"] == lungs["auc_distance"]["value"] == 1
    assert ovaries["auc_plane"]["value"] == pytest.approx((4 * 90 + 8 * 2 + 0) / 400)
    assert ovaries["auc_distance"]["value"] == pytest.approx((1 + 3 * 0.5) / 4)


def test_what_is_no_ultrasound_picture_is_not_assessable() -> None:
    odd = Judged(OVARIES.groups, np.zeros(4, bool), OVARIES.plane, OVARIES.distance)
    found = unfamiliar(PLANES, {"ovaries": odd}, 0.5, 2.0)
    assert found["rows"][0]["shipped"]["value"] == 0 and found["verdict"] == UNSHOWN and len(found["rows"]) == 1


def test_the_table_and_the_page() -> None:
    found = unfamiliar(PLANES, {"ovaries": OVARIES, "lungs": LUNGS}, 0.5, 2.0)
    table = other_anatomy_table(found)
    assert table is not None and table.kind == "real" and len(table.rows) == 1 + 3 * 4
    assert {r.n for r in table.rows if r.split == "ovaries"} == {4, 104}
    page = "".join(_other_anatomy(found))
    assert "0.250" in page


def test_patients_that_nobody_named_are_said_to_be_unknown() -> None:
    for caveats, said in ((Caveats(NOBODYS, ONE_SITE), True), (Caveats(), False)):
        found = unfamiliar(PLANES, {"lungs": LUNGS}, 0.5, 2.0, caveats)
        table = other_anatomy_table(found)
        assert table is not None
        for text in (NOBODYS, ONE_SITE):
            assert (text in table.description) == said and (text in html.unescape("".join(_other_anatomy(found)))) == said


@pytest.mark.parametrize(
    ("images", "called", "verdict", "bound"),
    [(400, 0, MET, "0.92%"), (360, 0, UNSHOWN, "1.02%"), (400, 4, UNSHOWN, "2.54%"), (400, 5, MISSED, "2.89%")],
)  # 0 of 368 is the fewest whose exact interval ends below 1 %
def test_the_aim_is_shown_only_by_the_whole_interval(images: int, called: int, verdict: str, bound: str) -> None:
    other = judged([0.9] * called + [0.05] * (images - called), [1.0] * images, "O")
    found = unfamiliar(PLANES, {"ovaries": other}, 0.5, 2.0)
    table = other_anatomy_table(found)
    assert found["verdict"] == verdict and table is not None and f"It is {verdict}." in table.description
    page = "".join(_other_anatomy(found))
    assert f">{verdict}</span> Aim: at most 1%" in page and f"at most {bound} by the 95 % interval" in page


def test_nothing_to_measure_is_said() -> None:
    assert unfamiliar(PLANES, {}, 0.5, 2.0) is None and other_anatomy_table(None) is None
    assert "Not measured in this run" in "".join(_other_anatomy({}))
