"""README and docs: what they point at is there, what they say of commands, exit codes, messages, tables and packages is so."""

from __future__ import annotations

import ast
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.dataset import KNOWN, load_dataset
from calibration.stills import CORNERS, MANIFEST, load_stills
from edge import errors
from edge.cli.main import COMMANDS, make_parser
from edge.cli.reference import manual, reference, sections

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FOLDERS = ("edge", "export", "calibration", "benchmarks", "systemd", "tests")
SUFFIXES = {".py", ".yaml", ".toml", ".sh", ".service", ".path", ".conf", ".rules"}
SHIPPED_DATA = DOCS / "shipped-data.md"  # the one page that says where the makers keep the data


def texts() -> Iterator[tuple[Path, str]]:
    """Everything that people read in the repository: pages, code, units."""
    found = [*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in FOLDERS:
        found += [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SUFFIXES and "corpus" not in p.parts]
    for path in found:
        if path != Path(__file__):
            yield path, path.read_text(encoding="utf-8")


def prose(page: str) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    out: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = next(n for n in range(1000) if (slug if n == 0 else f"{slug}-{n}") not in out)
        out.add(slug if number == 0 else f"{slug}-{number}")
    return out


@pytest.mark.requirement("D-01")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if ROOT not in path.parents or not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(target)
    assert not dead


@pytest.mark.requirement("D-01")
def test_pages_that_code_and_pages_name_are_there() -> None:
    dead = []
    for path, text in texts():
        for name, anchor in re.findall(r"\b(docs/[\w/-]+\.(?:md|svg|png))(?:#([\w-]+))?", text):
            if path.name == "test_performance.py":  # it writes pages of its own
                continue
            page = ROOT / name
            if not page.is_file() or (anchor and anchor not in anchors(page)):
                dead.append(f"{path.relative_to(ROOT)}: {name}#{anchor}")
    assert not dead


@pytest.mark.requirement("D-01")
def test_nothing_points_at_what_no_reader_has() -> None:
    private = re.compile(r"\bDESIGN\b|\bissues? #?\d|HOUSE-MOVES")
    found = [f"{path.relative_to(ROOT)}: {m[0]}" for path, text in texts() for m in private.finditer(text)]
    assert not found
    assert not [str(page) for page in PAGES if page != SHIPPED_DATA and "../shared" in page.read_text(encoding="utf-8")]
    code = [(path, text) for path, text in texts() if path.suffix == ".py" and not path.is_relative_to(ROOT / "tests")]
    code += [(path, path.read_text(encoding="utf-8")) for path in (ROOT / "export" / "recipes").glob("*.yaml")]
    assert not [str(path) for path, text in code if "../shared" in text]


@pytest.mark.requirement("D-01")
def test_each_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                todo.append((page.parent / target).resolve())
    assert set(PAGES) <= seen


def command_lines() -> Iterator[tuple[str, str]]:
    """Page and line of every `hygroma ...` in a code block, fenced or indented, shell comments aside."""
    for page in PAGES:
        fenced = False
        for line in page.read_text(encoding="utf-8").splitlines():
            fenced ^= line.startswith("```")
            found = re.match(r"\s*(?:sudo )?(?:\.venv/bin/)?hygroma (.*)", line)
            if found and (fenced or line.startswith("    ")):
                yield page.name, re.sub(r"\s+#.*", "", found[1])


@pytest.mark.requirement("D-01")
def test_every_command_line_is_one_that_the_parser_takes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = list(command_lines())
    assert len(lines) > 15
    refused = []
    for page, line in lines:
        try:
            make_parser().parse_args(shlex.split(line))
        except SystemExit:
            refused.append(f"{page}: {line}: {capsys.readouterr().err.splitlines()[-1]}")
    assert not refused
    names = {command.name for command in COMMANDS}
    named = {m for page in PAGES for m in re.findall(r"`hygroma ([a-z]+)", page.read_text(encoding="utf-8"))}
    assert named - {"run"} and named <= names


@pytest.mark.requirement("D-02")
def test_the_page_of_commands_is_what_the_parser_says() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == reference(), "python -m edge.cli.reference > docs/commands.md"
    assert [name for name in re.findall(r"^### hygroma (\w+)$", page, re.MULTILINE)] == [
        command.name for group in ("device", "workstation") for command in COMMANDS if command.group == group
    ]


@pytest.mark.requirement("D-02")
def test_the_manual_page_is_what_the_parser_says() -> None:
    page = (ROOT / "systemd" / "hygroma.1").read_text(encoding="utf-8")
    assert page == manual(), "python -m edge.cli.reference man > systemd/hygroma.1"
    for command in COMMANDS:
        assert f".SS hygroma {command.name}\n" in page


@pytest.mark.requirement("D-02")
def test_every_argument_says_what_it_means() -> None:
    bare = [f"{s.name} {written}" for _, found in sections() for s in found for written, meaning in s.arguments if not meaning]
    assert not bare


@pytest.mark.requirement("D-02")
def test_every_exit_code_has_its_row() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.HygromaError)]
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert rows == sorted({0, 1, 2, 130} | {kind.exit_code for kind in kinds})


def said_by_the_program() -> str:
    """Every string of edge, calibration and export, one a line; what an f-string fills in is a NUL."""
    out = []
    for folder in ("edge", "calibration", "export"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    out.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    out.append(node.value)
    return "\n".join(out)


@pytest.mark.requirement("D-02")
def test_the_messages_of_troubleshooting_are_the_programs() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    program = said_by_the_program()
    strange, checked = [], 0
    for cell in re.findall(r"^\| (`[^|]+) \|", page.partition("## Sources")[2], re.MULTILINE):
        for quoted in re.findall(r"``(.+?)``|`([^`]+)`", cell):
            parts = [part.strip(" ;,()") for part in "".join(quoted).split("...")]  # "...": what the program fills in
            strange += [part for part in parts if part not in program]
            checked += 1
    assert checked > 30 and not strange


@pytest.mark.requirement("D-03")
def test_every_column_that_is_read_is_described() -> None:
    pytest.importorskip("torch")
    from export.report import paper
    from export.site import adapt, boxes

    described = set(re.findall(r"`(\w+)`", (DOCS / "data.md").read_text(encoding="utf-8")))
    flags = {"structure", "nt_over_thalami_size", "by_eye_increased_nt"}
    tables = (KNOWN, MANIFEST, CORNERS, boxes.COLUMNS, paper.FIXED, paper.PER_FORM, adapt.COLUMNS, flags)
    assert {column for table in tables for column in table} <= described


def example(first: str) -> str:
    """The code block of data.md that begins with this line."""
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```\n({re.escape(first)}\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.mark.requirement("D-03")
def test_the_ten_lines_are_read_as_they_stand(tmp_path: Path) -> None:
    table = example("path,label,patient,site,plane")
    assert len(table.splitlines()) == 10
    for line in table.splitlines()[1:]:
        image = tmp_path / "DATA" / line.split(",")[0]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    (tmp_path / "patients.csv").write_text(table, encoding="utf-8")
    data = load_dataset(tmp_path / "DATA", tmp_path / "patients.csv")
    assert data.labels.sum() == 4 and len({image.patient for image in data.images}) == 7


@pytest.mark.requirement("D-03")
def test_the_recipes_tables_are_read_as_they_stand(tmp_path: Path) -> None:
    pieces = re.split(r"^# (\S+)\n", example("# manifest.csv"), flags=re.MULTILINE)[1:]
    for name, text in zip(pieces[::2], pieces[1::2], strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "img").mkdir()
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"img/000{number}.png"), np.zeros((8, 8), np.uint8))
    first, second, third = load_stills(tmp_path)
    assert first.plane and not second.plane and third.split == "validation"
    assert first.anatomy is not None and first.thickness_mm == pytest.approx(0.31 * 6)


def test_the_readme_can_be_read_in_one_go() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) < 110
    assert re.search(r"^make demo\b", page, re.MULTILINE) and re.search(r"^make test\b", page, re.MULTILINE)
    assert "research prototype" in page and "not a medical device" in page and "simulated" in page
    assert "has not chosen a licence" in page


@pytest.mark.parametrize("note", sorted((DOCS / "notebook").glob("*.md")), ids=lambda p: p.stem)
def test_a_note_opens_with_its_conclusion(note: Path) -> None:
    assert note.read_text(encoding="utf-8").split("\n\n")[1].startswith("**Conclusion.** ")


def test_the_diagram_is_readable_in_light_and_dark() -> None:
    text = (DOCS / "how-it-works.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "prefers-color-scheme:dark" in text and "<title" in text
    folders = re.findall(r'class="where"[^>]*>([^<]+)<', text)
    assert len(folders) == 13 and all((ROOT / folder).exists() for folder in folders)


def test_third_party_lists_every_package_that_is_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = project.partition("dependencies = [")[2].partition("[project.scripts]")[0]
    packages = set(re.findall(r'"([A-Za-z][\w.-]*)(?=[>=<;"~ ])', lists)) - {"hygroma-edge"}
    page = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    assert len(packages) > 20
    assert not {name for name in packages if name.lower() not in page}
