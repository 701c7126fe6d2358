"""A guesser and a flood are slowed down; a browser is not, and clients do not pay for each other."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from edge.status.board import Board
from edge.status.rate import CLIENTS_MAX, REQUESTS, WRONG_TOKENS, Limit, Rate, client_of
from edge.status.server import StatusServer


def test_a_bucket_empties_and_fills() -> None:
    now = [0.0]
    rate = Rate(Limit(3, 2), lambda: now[0])
    assert [rate.allows("a") for _ in range(4)] == [True] * 3 + [False]
    assert rate.allows("b")
    now[0] += 0.5
    assert rate.allows("a", 0) and [rate.allows("a"), rate.allows("a")] == [True, False]


def test_clients_are_forgotten_the_silent_ones_first() -> None:
    rate = Rate(Limit(1, 0), lambda: 0.0)
    for i in range(CLIENTS_MAX + 1):
        rate.allows(str(i))
    assert rate.allows("0") and not rate.allows(str(CLIENTS_MAX))


@pytest.mark.requirement("S-04")
def test_a_network_that_one_machine_may_own_is_one_client() -> None:
    assert client_of("192.0.2.1") == client_of("::ffff:192.0.2.1") != client_of("192.0.2.2")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")


def test_a_browser_stays_below() -> None:
    now = [0.0]
    rate = Rate(REQUESTS, lambda: now[0])
    for _ in range(10_000):
        now[0] += 0.1
        assert rate.allows("browser") and rate.allows("browser")


def status(url: str, token: str) -> int:
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        return int(urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.requirement("S-04")
def test_tokens_cannot_be_tried_out() -> None:
    with StatusServer(Board(), port=0, token="t" * 16) as server:
        codes = [status(server.url, "wrong") for _ in range(round(WRONG_TOKENS.burst) + 3)]
        assert codes.count(401) == WRONG_TOKENS.burst and codes[-1] == 429
        assert status(server.url, "t" * 16) == 429  # not even the right one, from there, for a while
