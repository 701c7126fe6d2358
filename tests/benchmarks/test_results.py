"""Results written, read, compared and held against budgets; and the command's exit codes, over a suite that is made up."""

from __future__ import annotations

import dataclasses
import errno
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import suites
from benchmarks.case import Bench, Case, Record, Unavailable, record
from benchmarks.machine import yardstick
from benchmarks.results import (
    BUDGETS,
    Run,
    check_budgets,
    compare,
    differences,
    no_longer_measured,
    other_machine,
    read_budgets,
    read_run,
    write_run,
)
from benchmarks.text import markdown, sparkline, terminal
from edge.cli import main
from edge.errors import ConfigError, InputError

CPU = {"model": "m", "cores_usable": 2, "cores": 2, "governor": "absent", "flags": ["avx2"], "virtual": False}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ENVIRONMENT = {
    "cpu": CPU, "board": "b", "nvpmodel": "absent", "gpu": "absent", "memory_mb": 1, "kernel": "k", "versions": {"python": "3"},
    "threads": 1, "bundle": {"label": "x", "sha256": "y"}, "git": "absent",
}  # fmt: skip
STATE = {"temperatures_c": "absent", "clocks_mhz": "absent", "load_average": [0.1, 0.1, 0.1]}


def run_of(*records: Record, loop_ms: float = 10.0, **environment: object) -> Run:
    settings = {"suites": ["models"], "calls": 1}
    stick = {"loop_ms": loop_ms}
    return Run(
        "2026-01-01",
        1.0,
        settings,
        {**ENVIRONMENT, **environment},
        STATE,
        STATE,
        {"absent": "none"},
        stick,
        list(records),
    )


def times(ms: float, name: str = "a", n: int = 200, spread: float = 0.01, **more: object) -> Record:
    return dataclasses.replace(
        record("models", name, ms * (1 + spread * np.random.default_rng(0).normal(size=n))), **more
    )


def test_a_result_survives_the_file(tmp_path: Path) -> None:
    run = run_of(times(5.0, values={"fps": 3.0}, better={"fps": "higher"}, series={"p50": [(1, 2.0)]}, axes=("x", "y")))
    write_run(tmp_path / "sub" / "a.json", run)
    assert read_run(tmp_path / "sub" / "a.json") == run


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1, "records": [{}]}'])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="not a result of `hygroma bench"):
        read_run(tmp_path / "a.json")


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    """Where everything is in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, item in items for leaf in leaves(item, (*path, key)))]


@pytest.mark.parametrize("wrong", [None, True, "x", -1, 1e400, [], {}, [1], {"a": 1}], ids=str)
def test_a_result_that_was_changed_anywhere_is_refused_or_can_be_compared(tmp_path: Path, wrong: object) -> None:
    more = {"values": {"fps": 3.0}, "better": {"fps": "higher"}, "series": {"p50": [(1, 2.0)]}, "axes": ("x", "y")}
    run, file = run_of(times(5.0, table=[{"a": 1.0, "b": "c"}], notes=("n",), **more)), tmp_path / "a.json"
    whole = json.loads(json.dumps(run.to_json()))
    refused = 0
    for path in leaves(whole)[1:]:
        data = json.loads(json.dumps(whole))
        *inner, last = path
        target = data
        for key in inner:
            target = target[key]
        target[last] = wrong
        file.write_text(json.dumps(data))
        try:
            old = read_run(file)
        except InputError as error:
            assert "a.json: not a result of `hygroma bench" in str(error)
            refused += 1
        else:
            compare(old, run, 0.1), differences(old, run), other_machine(old, run), no_longer_measured(old, run)
    assert refused > 5


@pytest.mark.parametrize(
    ("now", "spread", "verdict"),
    [
        (5.0, 0.01, "same"),
        (5.4, 0.01, "same"),
        (5.8, 0.01, "slower"),
        (4.0, 0.01, "faster"),
        (5.8, 0.9, "unsure"),
        (4.2, 0.9, "unsure"),
    ],
)
def test_medians_are_compared_with_their_intervals(now: float, spread: float, verdict: str) -> None:
    (change,) = compare(run_of(times(5.0, spread=spread)), run_of(times(now, spread=spread)), 0.1)
    assert change.verdict == verdict


def test_an_interval_without_an_end_explains_any_difference() -> None:
    assert [c.verdict for c in compare(run_of(times(5.0, n=4)), run_of(times(9.0, n=4)), 0.1)] == ["unsure"]


def test_what_is_no_longer_measured_is_named() -> None:
    gone = Record("models", "a", skipped="no GPU")
    assert no_longer_measured(run_of(times(5.0)), run_of(gone)) == no_longer_measured(run_of(times(5.0)), run_of())
    assert no_longer_measured(run_of(times(5.0)), run_of()) == ["models: a"]
    assert no_longer_measured(run_of(times(5.0)), run_of(times(9.0))) == []
    other = dataclasses.replace(run_of(), settings={"suites": ["soak"]})
    assert no_longer_measured(run_of(gone), run_of()) == no_longer_measured(run_of(times(5.0)), other) == []


@pytest.mark.parametrize(("direction", "old", "new", "verdict"), [
    ("higher", 30, 20, "slower"), ("higher", 20, 30, "faster"), ("lower", 100, 120, "slower"), ("lower", 100, 105, "same"),
])  # fmt: skip
def test_values_are_compared_in_their_direction(direction: str, old: float, new: float, verdict: str) -> None:
    a, b = (Record("models", "a", values={"v": v}, better={"v": direction}) for v in (old, new))
    assert [c.verdict for c in compare(run_of(a), run_of(b), 0.1)] == [verdict]


def test_runs_on_other_machines_are_told_apart() -> None:
    assert differences(run_of(), run_of()) == []
    other = run_of(cpu={**CPU, "model": "another"}, threads=2, bundle={"label": "x", "sha256": "z"})
    assert other_machine(run_of(), other) == ["cpu.model: m then, another now", "threads: 1 then, 2 now"]
    assert differences(run_of(), other) == ["bundle.sha256: y then, z now"] and other_machine(run_of(), run_of()) == []


def test_budgets_scale_with_the_machine(tmp_path: Path) -> None:
    table = tmp_path / "budgets.yaml"
    table.write_text(
        "- {case: 'models: a', figure: p50, at_most_loops: 1}\n- {case: 'models: a', figure: fps, at_least_per_loop: 0.5}\n"
        "- {case: 'models: b', figure: n, at_most: 1}\n- {case: 'soak: c', figure: p50, at_most: 1}\n"
    )
    own = times(15.0, values={"fps": 40.0})
    rows = read_budgets(table)
    assert [b.kept for b in check_budgets(run_of(own, loop_ms=10.0), rows)] == [
        False,
        False,
        False,
    ]  # b was not measured
    slow = check_budgets(run_of(own, Record("models", "b", skipped="x"), loop_ms=20.0), rows)
    assert [(b.limit, b.kept) for b in slow] == [(20.0, True), (25.0, True)]


def test_every_shipped_budget_names_a_case(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for key, _, _, value in read_budgets(BUDGETS):
        suite, name = key.split(": ", 1)
        assert name in [case.name for case in suites.cases(suite)] and value >= 0
    (tmp_path / "x.yaml").write_text("- {case: a, figure: b, about: 3}")
    with pytest.raises(ConfigError, match="about"):
        read_budgets(tmp_path / "x.yaml")


@pytest.fixture(scope="module")
def idle() -> Run:
    """The result that the budgets were fitted to, without the soak, whose budgets are promises."""
    run = read_run(RESULTS / "x86_64-2-cores.json")
    return dataclasses.replace(run, settings={**run.settings, "suites": ["models", "pipeline", "startup"]})


def slowed(run: Run, key: str, factor: float) -> Run:
    """`run` with one record's times, or its rate, that much worse."""

    def worse(found: Record) -> Record:
        if found.key != key:
            return found
        assert found.distribution is not None
        by = {
            name: dataclasses.replace(p, value=p.value * factor) for name, p in found.distribution.percentiles.items()
        }
        spread = dataclasses.replace(found.distribution, percentiles=by, mean=found.distribution.mean * factor)
        values = {name: v / factor if found.better.get(name) == "higher" else v for name, v in found.values.items()}
        return dataclasses.replace(found, distribution=spread, values=values)

    return dataclasses.replace(run, records=[worse(found) for found in run.records])


def test_budgets_are_kept_by_the_idle_machine_with_their_stated_margin(idle: Run) -> None:
    rows = read_budgets(BUDGETS)
    over = [(b.key, b.figure) for b in check_budgets(idle, rows) if not b.kept]
    assert over == []
    fitted = [row for row in rows if row[2] != "at_most" and row[0] != "pipeline: decide"]
    assert len(fitted) >= 8
    for key, figure, rule, _ in fitted:
        (budget,) = [b for b in check_budgets(idle, rows) if (b.key, b.figure) == (key, figure)]
        assert budget.found is not None
        margin = budget.found / budget.limit if rule == "at_least_per_loop" else budget.limit / budget.found
        assert 1.3 <= margin <= 2, (key, figure, margin)


@pytest.mark.parametrize("key", [
    "models: student INT8, ONNX Runtime, 1 thread", "pipeline: read the screen", "pipeline: engine",
    "pipeline: loop, pictures from memory, one after another", "startup: process start to READY",
])  # fmt: skip
def test_a_stage_that_takes_twice_as_long_is_over_its_budget(idle: Run, key: str) -> None:
    rows = read_budgets(BUDGETS)
    assert all(b.kept for b in check_budgets(slowed(idle, key, 1.2), rows))
    assert {b.key for b in check_budgets(slowed(idle, key, 2.0), rows) if not b.kept} == {key}


def test_a_float_graph_in_place_of_the_int8_one_is_over_its_budget(idle: Run) -> None:
    records = {found.key: found for found in idle.records}
    student = records["models: student INT8, ONNX Runtime, 1 thread"]
    wrong = dataclasses.replace(records["models: student float, ONNX Runtime"], name=student.name)
    run = dataclasses.replace(idle, records=[wrong if r is student else r for r in idle.records])
    assert [b.key for b in check_budgets(run, read_budgets(BUDGETS)) if not b.kept] == [student.key]


def test_the_texts_say_what_is_missing_and_what_is_not_trustworthy() -> None:
    run = run_of(times(5.0, n=20), Record("models", "gone", skipped="no GPU"), Record("models", "bad", failed="E: x"))
    for text in (terminal(run), markdown(run)):
        assert "no GPU" in text and "E: x" in text and "?" in text and "absent: none" in text
    busy = dataclasses.replace(run, before={**STATE, "load_average": [3.0, 1, 1]})
    assert "NOT IDLE" in terminal(busy) and "NOT IDLE" not in terminal(run)
    assert sparkline([0, 1, 100]) == " ▁█"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A suite `fast` with one case that measures and one that cannot run here; `module.ms` sets the times."""
    module = types.ModuleType("benchmarks.fast")
    module.ms = 5.0  # type: ignore[attr-defined]

    def unavailable(bench: Bench) -> list[Record]:
        raise Unavailable("no GPU")

    def measured(bench: Bench) -> list[Record]:
        assert bench.folder.is_dir() and not list(bench.folder.iterdir())
        if module.ms < 0:  # type: ignore[attr-defined]
            raise RuntimeError("broken")
        return [dataclasses.replace(times(module.ms), suite="fast")]  # type: ignore[attr-defined]

    module.CASES = [Case("fast", "a", measured), Case("fast", "g", unavailable)]  # type: ignore[attr-defined]
    monkeypatch.setattr("benchmarks.command.yardstick", lambda: yardstick(runs=1))
    monkeypatch.setitem(sys.modules, "benchmarks.fast", module)
    monkeypatch.setitem(suites.MODULES, "fast", "made up")
    return module


def test_exit_codes(made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = str(tmp_path / "old.json")
    assert main(["bench", "fast", "--json", "--out", old]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(Path(old).read_text())
    assert [r["skipped"] for r in shown["records"]] == ["", "no GPU"]

    judged = ["bench", "fast", "--compare", old, "--fail-if-slower", "10%"]
    assert main(judged) == 0
    made_up.ms = 6.0  # type: ignore[attr-defined]
    assert main(judged) == 3 and "slower" in capsys.readouterr().out
    assert main(judged[:-2]) == 0  # said, but it does not matter
    assert main([*judged[:-1], "30%"]) == 0
    made_up.ms = -1.0  # type: ignore[attr-defined]
    assert main(judged) == 1 and "RuntimeError: broken" in capsys.readouterr().out


def test_a_budget_that_is_not_kept_is_exit_code_3(
    made_up: types.ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.command.read_budgets", lambda: [("fast: a", "p50", "at_most", 5.5)])
    assert main(["bench", "fast", "--budgets"]) == 0
    assert "ok    fast: a, p50" in capsys.readouterr().out
    made_up.ms = 6.0  # type: ignore[attr-defined]
    assert main(["bench", "fast", "--budgets", "--json"]) == 3
    done = capsys.readouterr()
    assert json.loads(done.out)["records"] and "OVER  fast: a, p50: 6" in done.err


def test_what_a_library_prints_does_not_stand_in_the_result(
    made_up: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(bench: Bench) -> list[Record]:
        print("Statistics collection 100%")
        return []

    made_up.CASES.append(Case("fast", "chatty", chatty))
    assert main(["bench", "fast", "--json"]) == 0
    done = capsys.readouterr()
    assert json.loads(done.out)["schema"] == 1 and "Statistics" in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fast", "--fail-if-slower", "10%"], 78, "needs --compare"),
        (["fast", "--compare", "/nowhere.json"], 66, "/nowhere.json: cannot be read (No such file"),
        (["fast", "--threads", "4096"], 78, "--threads: found 4096; this process may use"),
        (["fast", "--out", "/tmp"], 78, "is a folder"),
        (["fast", "--out", "/dev/null/a.json"], 78, "not a folder; name a file"),
    ],
)
def test_wrong_requests(
    made_up: types.ModuleType, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(["bench", *words]) == code
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("out", ["/proc/a.json", "/sys/a.json"])
def test_a_result_that_cannot_be_written_was_printed(
    made_up: types.ModuleType, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert main(["bench", "fast", "--json", "--out", out]) == 78
    done = capsys.readouterr()
    assert f"{out}" in done.err and (not done.out or json.loads(done.out)["records"])


def test_a_full_disk_leaves_the_older_result(
    made_up: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    file.write_text("older")

    def full(path: Path, text: str, **_: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["bench", "fast", "--json", "--out", str(file)]) == 78
    done = capsys.readouterr()
    assert json.loads(done.out)["records"] and "cannot be written (No space left on device)" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and file.read_text() == "older"


def test_a_run_of_another_machine_judges_nothing(
    made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    assert main(["bench", "fast", "--out", str(old)]) == 0
    changed(old, "environment", "cpu", "model", to="a faster one")
    assert main(["bench", "fast", "--compare", str(old)]) == 0
    assert "ANOTHER MACHINE: cpu.model: a faster one then" in capsys.readouterr().out
    assert main(["bench", "fast", "--compare", str(old), "--fail-if-slower", "10%"]) == 1


def changed(file: Path, *path: str, to: object) -> None:
    """Another value at that place of a result's file."""
    data = json.loads(file.read_text())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    file.write_text(json.dumps(data))


def test_another_bundle_is_said_and_still_judged(
    made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    judged = ["bench", "fast", "--compare", str(old), "--fail-if-slower", "10%"]
    assert main(["bench", "fast", "--out", str(old)]) == 0
    changed(old, "environment", "bundle", to={"label": "older", "sha256": "y"})
    assert main(judged) == 0 and "NOT ALIKE: bundle.sha256: y then" in capsys.readouterr().out
    made_up.ms = 6.0  # type: ignore[attr-defined]  # a new model that is slower is what one wants to hear of
    assert main(judged) == 3


def test_a_case_that_is_missing_now_judges_nothing_and_a_new_one_matters_not(
    made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    judged = ["bench", "fast", "--compare", str(old), "--fail-if-slower", "10%"]
    made_up.CASES.append(Case("fast", "b", lambda bench: [dataclasses.replace(times(5.0, "b"), suite="fast")]))
    assert main(["bench", "fast", "--out", str(old)]) == 0
    gone = made_up.CASES.pop()
    assert main(judged) == 1 and "NOT MEASURED NOW: fast: b" in capsys.readouterr().out
    assert main(judged[:-2]) == 0  # said, but it does not matter
    assert main(["bench", "fast", "--out", str(old)]) == 0
    made_up.CASES.append(gone)
    assert main(judged) == 0


def test_a_run_of_other_suites_judges_nothing(
    made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "old.json", run_of(times(5.0)))
    judged = ["bench", "fast", "--compare", str(tmp_path / "old.json"), "--fail-if-slower", "10%"]
    assert main(judged) == 1 and "no figure in common: name the suites of the older run" in capsys.readouterr().out


def test_a_soak_of_another_length_is_said(made_up: types.ModuleType, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert main(["bench", "fast", "--frames", "100", "--out", str(old)]) == 0
    assert main(["bench", "fast", "--out", str(new)]) == 0
    assert differences(read_run(old), read_run(new)) == ["soak_frames: 100 then, 18000 now"]
    before = read_run(old)
    del before.settings["soak_frames"]  # as results were before it was kept
    assert differences(before, read_run(new)) == []


def test_an_interruption_loses_nothing_that_was_measured(
    made_up: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(bench: Bench) -> list[Record]:
        raise KeyboardInterrupt

    made_up.CASES.append(Case("fast", "long", interrupted))
    assert main(["bench", "fast", "--out", str(tmp_path / "a.json")]) == 1
    assert [(r.name, bool(r.failed)) for r in read_run(tmp_path / "a.json").records][-1] == ("interrupted", True)
    assert "measured" in capsys.readouterr().out


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "0", "soon"])
def test_hours_are_a_span_of_time(capsys: pytest.CaptureFixture[str], hours: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "soak", f"--hours={hours}"])
    assert ended.value.code == 2 and "--hours" in capsys.readouterr().err


def test_a_share_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--compare", "x", "--fail-if-slower", "soon"])
    assert ended.value.code == 2 and "percentage" in capsys.readouterr().err
