"""Independent jobs: one after another here, or on a Ray cluster. We schedule nothing ourselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge.errors import ConfigError, HygromaError


def run_jobs(
    function: Callable[[Any], None],
    jobs: Sequence[Any],
    ray_address: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Call `function` on each job. With `ray_address` ("auto", "host:port", "ray://host:port", or "local": a cluster of this
    machine alone) each is a Ray task that asks for `cpus` and `gpus`. Jobs leave files, so the cluster needs storage that all
    its machines see under the same path, and this package on each. The first error stops it all; what is finished stays."""
    if ray_address is None:
        for number, job in enumerate(jobs):
            function(job)
            on_done(number + 1, len(jobs))
        return
    ray = _connect(ray_address)
    try:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
        waiting = [task.remote(job) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, HygromaError):  # ours: its message is enough
                    raise error.cause from None
                raise
            on_done(len(jobs) - len(waiting), len(jobs))
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The package. ConfigError when it is not installed."""
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--ray: the package ray is missing: pip install 'hygroma-edge[ray]', or leave --ray out: the folds then run one "
            "after another, with the same results"
        ) from None
    return ray


def _connect(address: str) -> Any:
    ray = load_ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there ({error}); start one with `ray start --head`"
        ) from None
    return ray
