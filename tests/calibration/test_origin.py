"""Where a data set comes from, as the file beside it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.open_dataset import open_dataset
from calibration.origin import Origin, origin_file
from edge.errors import InputError

WHOLE = "name: Ours\nlicence: CC BY 4.0\ncitation: 'Us (2026)'\nlimits: [One hospital.]\n"


def table(folder: Path) -> Path:
    (folder / "a.png").touch()
    (folder / "t.csv").write_text("path,hygroma\na.png,0\n")
    return folder / "t.csv"


def test_the_file_beside_a_table_is_read_and_none_is_needed(tmp_path: Path) -> None:
    path = table(tmp_path)
    assert open_dataset(path).origin is None
    (tmp_path / "t.source.yaml").write_text(WHOLE)
    assert origin_file(path).name == "t.source.yaml"
    assert open_dataset(path).origin == Origin("Ours", "CC BY 4.0", "Us (2026)", ["One hospital."])


@pytest.mark.parametrize(("text", "words"), [
    (WHOLE.replace("licence", "license"), "license: found 'CC BY 4.0'; unknown field"),
    (WHOLE.replace("name: Ours\n", ""), "name: found None; required field is missing"),
    (WHOLE.replace("Ours", "''"), "name: found ''"),
    ("- a\n", "the file: found ['a']; expected a mapping of name, licence and citation"),
    ("a: [", "t.source.yaml: "),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = table(tmp_path)
    origin_file(path).write_text(text)
    with pytest.raises(InputError) as error:
        open_dataset(path)
    assert "t.source.yaml" in str(error.value) and words in str(error.value)
