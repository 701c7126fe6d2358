"""Flags that outlive a power cut: the store, its disk, and the evidence image."""

from edge.events.clip import Clips
from edge.events.disk import Disk, why_unwritable
from edge.events.evidence import render_evidence
from edge.events.export import export
from edge.events.store import EventStore, NewEvent, Retention, evidence_reader

__all__ = [
    "Clips", "Disk", "EventStore", "NewEvent", "Retention", "evidence_reader", "export", "render_evidence", "why_unwritable",
]  # fmt: skip
