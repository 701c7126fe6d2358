"""What a campaign writes stands beside what others wrote before."""

from __future__ import annotations

from pathlib import Path

from sections import HEAD, write_section


def test_a_campaign_replaces_its_own_section_and_no_other(tmp_path: Path) -> None:
    out, order = tmp_path / "new" / "trust.md", ("First", "Second")
    write_section(out, "Second", [("two", "2", "old")], 0.5, order)
    write_section(out, "First", [("one", "1", "good")], 1.5, order)
    write_section(out, "Second", [("two", "20", "new"), ("three", "3", "too")], 2.5, order)
    text = out.read_text()
    assert text.startswith(HEAD) and text.index("## First") < text.index("## Second")
    assert text.count("## ") == 2 and "| one | 1 | good |" in text and "old" not in text
    assert text.endswith("| two | 20 | new |\n| three | 3 | too |\n")
    assert "load average 1.5 before" in text and "load average 2.5 before" in text and "load average 0.5" not in text
