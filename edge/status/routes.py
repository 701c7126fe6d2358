"""Everything that the page's server answers to, in one table: the server finds its way by it, and `edge.status.openapi` describes
it to other programs."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.records import REVIEWER, REVIEWER_MAX, REVIEWS
from edge.schema import rule

NUMBER_DIGITS = 18  # of an event's number: below SQLite's largest
NUMBER = "{event_id}"  # stands for one in a path

COOKIE = "hygroma_token"  # where a browser keeps the token, with the port behind it: cookies of one host are shared by its ports

JSON, TEXT, PNG, JPEG, WEBP = "application/json", "text/plain", "image/png", "image/jpeg", "image/webp"
METRICS = "text/plain; version=0.0.4; charset=utf-8"  # as Prometheus wants it
HTML, CSS, JS = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"


@dataclass(frozen=True)
class ReviewBody:
    """What a person says of an event, as JSON. Nothing sent at all is a plain confirmation."""

    review: str = field(default="confirmed", metadata=rule(choices=REVIEWS))
    by: str = field(
        default="operator", metadata=rule(low=1, high=REVIEWER_MAX, pattern=REVIEWER, hint="a name, one line of letters")
    )


@dataclass(frozen=True)
class NoBody:
    """Nothing, or an empty JSON object."""


@dataclass(frozen=True)
class Answer:
    """`schema` names what a JSON answer holds: a key of `openapi.SCHEMAS`."""

    code: int
    kind: str  # media type
    text: str
    schema: str = ""


@dataclass(frozen=True)
class Route:
    """`answers` are its own; those of any request are not repeated. `name` is what the server finds its work by."""

    method: str  # GET, which HEAD goes with, or POST
    path: str
    name: str
    text: str
    answers: tuple[Answer, ...]
    body: type | None = None  # a dataclass that edge.schema decodes, for POST

    @property
    def for_people(self) -> bool:
        """Whether a browser shows what it answers as a page of its own."""
        return self.answers[0].kind == HTML


_NO_PICTURE = Answer(404, JSON, "there is no such picture", "Error")
_TAKEN = Answer(202, JSON, "the daemon will do it before its next frame", "Accepted")
_NOT_TAKEN = Answer(503, JSON, "the loop does not turn, or too many requests wait already", "Error")

ROUTES = (
    Route("GET", "/", "page", "The status page.", (Answer(200, HTML, "the page"),)),
    Route("GET", "/page.css", "style", "The page's style.", (Answer(200, CSS, "the style"),)),
    Route("GET", "/page.js", "script", "The page's script.", (Answer(200, JS, "the script"),)),
    Route("GET", "/snapshot.json", "snapshot", "What the daemon sees and has decided, all but the pictures.",
          (Answer(200, JSON, "the newest snapshot; before the first, its state and health only", "Snapshot"),)),
    Route("GET", "/healthz", "health", "Whether the daemon lives, watches, and what is wrong.",
          (Answer(200, JSON, "it watches", "Health"), Answer(503, JSON, "it does not watch", "Health"))),
    Route("GET", "/metrics", "metrics", "Metrics for Prometheus.", (Answer(200, METRICS, "text format 0.0.4"),)),
    Route("GET", "/live.jpg", "live", "The newest picture, only what lies inside the fan.",
          (Answer(200, JPEG, "the picture"), _NO_PICTURE)),
    Route("GET", f"/events/{NUMBER}.png", "evidence", "The evidence image of an event.",
          (Answer(200, PNG, "the image"), _NO_PICTURE)),
    Route("GET", f"/events/{NUMBER}.webp", "clip", "The seconds around an event, as an animation.",
          (Answer(200, WEBP, "the clip"), _NO_PICTURE)),
    Route("GET", "/openapi.json", "description", "This description.", (Answer(200, JSON, "OpenAPI 3.1", "OpenAPI"),)),
    Route("POST", "/new-exam", "new_exam", "Another patient is on the table.", (_TAKEN, _NOT_TAKEN), NoBody),
    Route("POST", "/same-exam", "same_exam", "The patient is still the one before the boundary that was asked about.",
          (_TAKEN, _NOT_TAKEN), NoBody),
    Route("POST", f"/ack/{NUMBER}", "review", "A person has looked at an event.",
          (_TAKEN, Answer(404, JSON, "that is no event's number", "Error"), _NOT_TAKEN), ReviewBody),
)  # fmt: skip


def find(path: str) -> tuple[dict[str, Route], int]:
    """The routes of a path by method, none when there is no such path, and the number in it (0 without one)."""
    found, number = {}, 0
    for route in ROUTES:
        before, mark, after = route.path.partition(NUMBER)
        if not mark and path == before:
            found[route.method] = route
        elif mark and (given := _number_between(path, before, after)) is not None:
            found[route.method], number = route, given
    return found, number


def _number_between(path: str, before: str, after: str) -> int | None:
    digits = path.removeprefix(before).removesuffix(after)
    exact = path == before + digits + after and digits.isascii() and digits.isdigit() and len(digits) <= NUMBER_DIGITS
    return int(digits) if exact else None
