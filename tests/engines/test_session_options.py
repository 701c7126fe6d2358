"""The slow INT8 kernels are asked for only where the fast ones would saturate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.engines import onnxruntime_runner
from edge.engines.onnxruntime_runner import has_vnni, session_options

SLOW = "session.x64quantprecision"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx_vnni\n", True),
        ("flags\t\t: fpu avx2\n\nflags\t\t: fpu avx2 avx_vnni\n", False),  # every core must
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", False),  # ARM; nothing saturates there, and the option is ignored
        ("", False),
    ],
)
def test_vnni_is_read_from_every_core(tmp_path: Path, text: str, found: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_vnni(tmp_path / "cpuinfo") is found


def test_a_machine_that_does_not_tell_has_none(tmp_path: Path) -> None:
    assert not has_vnni(tmp_path / "nothing")


@pytest.mark.parametrize(("vnni", "asked"), [(True, False), (False, True)])
def test_the_slow_kernels_are_for_machines_without_vnni(
    monkeypatch: pytest.MonkeyPatch, vnni: bool, asked: bool
) -> None:
    monkeypatch.setattr(onnxruntime_runner, "has_vnni", lambda: vnni)
    options = session_options(1, spinning=False)
    if asked:
        assert options.get_session_config_entry(SLOW) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(SLOW)


@pytest.mark.skipif(not os.environ.get("HYGROMA_TESTS_WITHOUT_VNNI"), reason="VNNI was not taken away, as .ci/run does")
def test_without_vnni_the_portable_kernels_are_asked_for() -> None:
    assert not has_vnni()
    assert session_options(1, spinning=False).get_session_config_entry(SLOW) == "1"
