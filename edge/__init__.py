"""hygroma-edge on the device: capture, screen reading, inference, decision, events. Never imports torch."""

import os

# ONNX Runtime 1.32 keeps a data base and a device's identity in ~/.cache/Microsoft, for its maker's servers, unless this is set
# before it is imported. A box beside a patient tells nobody of itself.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
