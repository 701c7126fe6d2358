"""The bundle: the verified unit that travels from workstation to device; see `bundle.load_bundle`."""

from edge.bundle.bundle import Bundle, load_bundle, write_bundle

__all__ = ["Bundle", "load_bundle", "write_bundle"]
