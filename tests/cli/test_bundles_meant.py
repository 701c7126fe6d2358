"""`score`, `bench` and `adapt` take the bundle that the daemon runs: on an updated device, the installed one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge.bundle import ANYONE, load_bundle
from edge.bundle.trust import SHIPPED_BUNDLE
from edge.cli.common import bundle_of, config_of
from edge.cli.main import make_parser


@pytest.mark.requirement("U-10")
@pytest.mark.parametrize(
    "words",
    [["score", "x.png", "--events"], ["bench", "--store"], ["adapt", "data", "--out", "o", "--events"]],
    ids=lambda w: w[0],
)
def test_the_installed_bundle_is_meant_unless_another_is_named(tmp_path: Path, words: list[str]) -> None:
    args = make_parser().parse_args([*words, str(tmp_path / "room1")])
    assert bundle_of(config_of(args, at_home=True)).path == SHIPPED_BUNDLE  # nothing was installed
    slots = tmp_path / "room1" / "bundles"
    slot = slots / "hygroma-vits5-192-9.0.0-0123456789ab"
    shutil.copytree(SHIPPED_BUNDLE, slot)
    os.symlink(slot.name, slots / "current")
    args.allow_unsigned = True
    assert bundle_of(config_of(args, at_home=True)).path == slot
    args.bundle = str(SHIPPED_BUNDLE)
    assert bundle_of(config_of(args, at_home=True)).path == SHIPPED_BUNDLE
    assert load_bundle(slot, ANYONE).label == load_bundle(SHIPPED_BUNDLE, ANYONE).label
