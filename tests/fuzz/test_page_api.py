"""The page's server against its own description, by schemathesis: what fits is answered as described, what does not is refused,
and nothing else comes back. `make fuzz` does more of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, settings
from page_api import TOKEN, serving

from edge.status.openapi import describe

api = schemathesis.openapi.from_dict(describe(True, "hygroma_token_8600"))


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with serving() as server:
        yield server


@api.parametrize()
@settings(max_examples=15, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.requirement("S-08")
def test_the_page_answers_as_it_says(case: Any, page: Any) -> None:
    case.call_and_validate(base_url=page.url, headers={"Authorization": f"Bearer {TOKEN}"})
