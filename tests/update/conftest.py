from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device import Device


@pytest.fixture
def device(tmp_path: Path, fake_bundle_parts: Any) -> Iterator[Device]:
    device = Device(tmp_path / "device", fake_bundle_parts)
    yield device
    device.close()
