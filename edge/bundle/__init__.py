"""The bundle: the verified unit that travels from workstation to device; see `bundle.load_bundle`."""

from edge.bundle.bundle import Bundle, load_bundle, sign_bundle, write_bundle
from edge.bundle.trust import ANYONE, Trust

__all__ = ["ANYONE", "Bundle", "Trust", "load_bundle", "sign_bundle", "write_bundle"]
