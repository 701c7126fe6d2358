"""The page is made of the results alone, its plots are well-formed, and nothing that was not measured is on it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import Record, record
from benchmarks.performance import write_page
from benchmarks.results import Run, write_run
from benchmarks.svg import lines, short

MACHINE = {
    "model": "made-up CPU",
    "cores_usable": 2,
    "cores": 2,
    "governor": "absent",
    "flags": ["avx2"],
    "virtual": False,
}
ENVIRONMENT = {
    "cpu": MACHINE, "board": "b", "nvpmodel": "absent", "gpu": "absent", "memory_mb": 1, "kernel": "k", "versions": {},
    "threads": 1, "bundle": "absent", "git": "absent",
}  # fmt: skip
STATE = {"temperatures_c": {"cpu": 40.0}, "clocks_mhz": "absent", "load_average": [0.0, 0.0, 0.0]}


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "gpu.json").write_text('{"dry": true}')
    assert write_page(tmp_path / "results", tmp_path / "docs" / "p.md") == []
    assert "none is shown" in (tmp_path / "docs" / "p.md").read_text()


def test_a_result_becomes_a_section_with_plots(tmp_path: Path) -> None:
    records = [
        record("models", "student", np.linspace(1, 2, 50)),
        Record("growth", "batch <&>", series={"p50 ms": [(1, 3.0), (32, 1.5)]}, axes=("crops", "ms")),
        Record("peers", "engine, TensorRT", skipped="no GPU here"),
    ]
    stick, none = {"loop_ms": 1.0}, {"absent": "no monitor"}
    run = Run("2026-01-01", 1.0, {"suites": []}, ENVIRONMENT, STATE, STATE, none, stick, records)
    write_run(tmp_path / "results" / "box.json", run)
    (tmp_path / "docs" / "performance").mkdir(parents=True)
    (tmp_path / "docs" / "performance" / "gone.svg").write_text("old")
    write_page(tmp_path / "results", tmp_path / "docs" / "p.md")
    page = (tmp_path / "docs" / "p.md").read_text()
    assert "## box" in page and "made-up CPU" in page and "no monitor" in page and "| student (ms) | 1.49*" in page
    never = page[page.index("## Never measured") :]
    assert "peers: engine, TensorRT: no GPU here" in never and "student" not in never
    assert "No Jetson" in never and "No Watts" in never and "No temperature" not in never
    (plot,) = (tmp_path / "docs" / "performance").iterdir()
    assert f"performance/{plot.name}" in page
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_jetsons_result_ends_the_claim_that_there_was_none(tmp_path: Path) -> None:
    environment, watts = {**ENVIRONMENT, "board": "NVIDIA Jetson Orin Nano"}, {"watts": {"VDD_IN": 6.0}}
    records = [record("models", "student, TensorRT engine", np.linspace(1, 2, 50))]
    write_run(
        tmp_path / "results" / "orin.json",
        Run("2026-01-01", 1.0, {"suites": []}, environment, STATE, STATE, watts, {"loop_ms": 1.0}, records),
    )
    write_page(tmp_path / "results", tmp_path / "p.md")
    page = (tmp_path / "p.md").read_text()
    never = page[page.index("## Never measured") :]
    assert "No real camera" in never and not any(f"No {what}" in never for what in ("Jetson", "GPU", "Watts", "temp"))


@pytest.mark.parametrize(
    "points",
    [[(1, 1.0)], [(1, 0.0), (2, 0.0)], [(1, 0.01), (1_000_000, 1000.0)], [(1, -5.0), (2, 7.0)], [(0, 3.0), (9, 3.0)]],
)
def test_every_point_lies_inside_the_plot(points: list[tuple[float, float]]) -> None:
    root = ElementTree.fromstring(lines({"a": points}, "x", "y", "t"))
    circles = [c for c in root.iter() if c.tag.endswith("circle")]
    assert len(circles) == len(points)
    for circle in circles:
        assert 63 <= float(circle.attrib["cx"]) <= 451 and 49 <= float(circle.attrib["cy"]) <= 293


def ticks(svg: str) -> list[str]:
    """Labels of the x axis."""
    return [t.text or "" for t in ElementTree.fromstring(svg).iter() if t.attrib.get("y") == "308.0"]


def test_counts_alone_are_logarithmic_and_have_whole_ticks() -> None:
    assert ticks(lines({"mb": [(1e-5 + 3 * i, 100.0 + i) for i in range(200)]}, "seconds", "MB", "t"))[:2] == [
        "0",
        "100",
    ]
    assert ticks(lines({"ms": [(10**k, 1.0) for k in range(2, 7)]}, "events", "ms", "t")) == [
        "100", "1k", "10k", "100k", "1M",
    ]  # fmt: skip
    assert ticks(lines({"ms": [(1, 17.0)]}, "streams", "ms", "t")) == ["0", "1"]
    megapixels = [0.23, 0.92, 2.07, 3.69, 8.29]  # cost grows with them in a line, and should look so
    assert ticks(lines({"ms": [(x, 2 * x) for x in megapixels]}, "megapixels", "ms", "t")) == [
        "0",
        "2",
        "4",
        "6",
        "8",
        "10",
    ]


def test_a_plot_names_what_it_shows_and_the_machine() -> None:
    texts = [
        t.text
        for t in ElementTree.fromstring(lines({"a": [(1, 1.0)]}, "x", "y", "growth: b <&>", "a box, 2 cores")).iter()
    ]
    assert texts.count("growth: b <&>") == 2 and "a box, 2 cores" in texts


def test_short_numbers() -> None:
    assert [short(v) for v in (0, 0.5, 20, 1500, 1e6)] == ["0", "0.5", "20", "1.5k", "1M"]
