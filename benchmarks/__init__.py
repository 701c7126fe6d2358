"""What hygroma-edge costs. One implementation with two fronts: `hygroma bench`, and pytest-benchmark (conftest.py).

A suite is a module with CASES; `suites.py` lists them. `edge` never imports this package (its command line does, lazily), and
nothing here needs torch or pytest but the peers, which say so when they are not there.
"""

import edge  # noqa: F401  (before onnxruntime, whose telemetry it turns off)
