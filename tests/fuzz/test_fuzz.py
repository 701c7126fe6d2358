"""Every parser of bytes from outside, on damaged inputs: one of our errors or an answer, within a second of CPU. Always the same
inputs; `make fuzz` looks for new ones."""

from __future__ import annotations

import time

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, run, seeds

EXAMPLES = {"video": 40, "bundle": 60, "manifest": 60}  # the slow ones; all others 150
CPU_MAX_S = 1.0  # seconds of CPU for one input: a hang, not a judgement of speed

edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 3), st.binary(max_size=8)), max_size=6)


def damaged(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Overwrite, insert, delete, or cut off."""
    data = bytearray(seed)
    for position, kind, what in changes:
        at = position % (len(data) + 1)
        if kind == 0:
            data[at : at + len(what)] = what
        elif kind == 1:
            data[at:at] = what
        elif kind == 2:
            del data[at : at + 16 * len(what)]
        elif len(what) > 6:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name: str) -> None:
    for seed in seeds(name):
        run(name, seed)
    if name != "keys":  # reads two kinds of file, each of which the other reader refuses
        TARGETS[name](seeds(name)[0])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.requirement("S-01")
def test_damaged_inputs_are_refused_in_our_words(name: str) -> None:
    @settings(
        derandomize=True, database=None, deadline=None, max_examples=EXAMPLES.get(name, 150),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(st.builds(damaged, st.sampled_from(seeds(name)), edits), st.binary(max_size=600)))
    def refuse(data: bytes) -> None:
        start = time.process_time()
        run(name, data)
        assert time.process_time() - start < CPU_MAX_S

    refuse()
