"""OpenVINO: it runs the canonical graph in INT8, tells nobody, and says what keeps it from running. Its numbers:
test_graph_forms.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bundle import load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.engines.openvino_runner import OpenVinoRunner, has_openvino
from edge.engines.selftest import run_selftest

if not has_openvino():  # not `importorskip`: that would import its telemetry
    pytest.skip("OpenVINO is not installed: the extra `openvino`", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def in_a_fresh_process(script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_every_block_linear_runs_in_int8_where_that_is_exact(tiny_int8_graph: Any, tiny_float_graph: Any) -> None:
    with OpenVinoRunner(tiny_int8_graph.SerializeToString()) as runner:
        assert runner.int8_products == (0 if runner.note else 8)  # two blocks of qkv, proj, fc1, fc2
    with OpenVinoRunner(tiny_float_graph.SerializeToString()) as runner:
        assert runner.int8_products == 0  # the count notices


def test_the_shipped_bundle_passes_its_self_test() -> None:
    bundle = load_bundle(SHIPPED_BUNDLE)
    with OpenVinoRunner(bundle.model) as runner:
        report = run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
        assert runner.int8_products == (0 if runner.note else 4 * 5)
    assert report.count == bundle.manifest.golden.count


def test_two_threads_give_the_same_numbers(tiny_int8_graph: Any, pictures: Callable[..., Any]) -> None:
    data, crops = tiny_int8_graph.SerializeToString(), pictures(2, 48)
    with OpenVinoRunner(data) as one, OpenVinoRunner(data, threads=2) as two:
        np.testing.assert_allclose(one.infer(crops).hygroma, two.infer(crops).hygroma, atol=1e-3)


def test_it_keeps_openvinos_telemetry_out(tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "openvino_telemetry.py").write_text(f"open({str(told)!r}, 'w').close()\nraise ImportError\n")
    put = "import sys; sys.path.insert(0, sys.argv[1])\n"
    quiet = "from edge.engines.openvino_runner import import_openvino\nprint(import_openvino().__version__)\n"
    done = in_a_fresh_process(put + quiet, tmp_path)
    assert done.returncode == 0 and done.stdout and not told.exists(), done.stderr
    in_a_fresh_process(put + "import openvino", tmp_path)
    assert told.exists()  # it would be asked otherwise


def test_where_no_memory_may_become_executable_it_says_what_to_do() -> None:
    """As under MemoryDenyWriteExecute=yes, the unit's default."""
    done = in_a_fresh_process(
        "import ctypes, sys\n"
        "from edge.bundle import load_bundle\n"
        "from edge.bundle.trust import SHIPPED_BUNDLE\n"
        "from edge.engines.openvino_runner import OpenVinoRunner, import_openvino\n"
        "from edge.errors import EngineError\n"
        "import_openvino()\n"
        "PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1\n"
        "if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0): sys.exit(77)\n"
        "try:\n"
        "    with OpenVinoRunner(load_bundle(SHIPPED_BUNDLE).model): pass\n"
        "except EngineError as error: print(error)\n"
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (6.3)")
    assert "MemoryDenyWriteExecute=yes" in done.stdout and "docs/install.md" in done.stdout, done.stderr


def test_a_missing_package_is_told_with_the_fix() -> None:
    done = in_a_fresh_process(
        "import sys; sys.modules['openvino'] = None\n"
        "from edge.engines.openvino_runner import OpenVinoRunner\n"
        "from edge.errors import EngineError\n"
        "try:\n"
        "    with OpenVinoRunner(b''): pass\n"
        "except EngineError as error: print(error)\n"
    )
    assert "pip install 'hygroma-edge[openvino]'" in done.stdout, done.stderr
