"""What several files of this folder would otherwise make anew in every test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import made_once


@pytest.fixture(scope="session")
def rendered_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The phantom crops of every bundle's golden images and distances, rendered once a run: 192 frames, some 15 s. They depend on
    their number and the preprocessing alone."""
    from export import phantoms

    def remembered(render: Callable[[int, Any], np.ndarray]) -> Callable[[int, Any], np.ndarray]:
        def crops(count: int, spec: Any) -> np.ndarray:
            def make(folder: Path) -> None:
                np.save(folder / "crops.npy", render(count, spec))

            name = f"{render.__name__}-{count}-{abs(hash(repr(spec)))}"
            return np.load(made_once(tmp_path_factory, name, make) / "crops.npy")

        return crops

    with pytest.MonkeyPatch.context() as patch:
        for render in (phantoms.golden_crops, phantoms.standard_crops):
            known = remembered(render)
            for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "export"]:
                for name in [name for name, value in vars(module).items() if value is render]:
                    patch.setattr(module, name, known)  # wherever it was imported by name
        yield
