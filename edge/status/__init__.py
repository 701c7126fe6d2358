"""The local page, its health and its metrics: off the hot path, from snapshots that the loop publishes."""

from edge.status.board import Board, ExamRow, Snapshot
from edge.status.server import StatusServer, read_token

__all__ = ["Board", "ExamRow", "Snapshot", "StatusServer", "read_token"]
