"""New bundles on a device: installed beside the old one, on trial until proven, and rolled back by themselves if they fail.

docs/updates.md tells an operator what this does; `install.install` tells it step by step.
"""
