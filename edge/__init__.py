"""hygroma-edge on the device: capture, screen reading, inference, decision, events. Never imports torch."""

__version__ = "0.1.0"
