"""The connection to Ray: an existing cluster, or a local one that is started here and shut down afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from task.python_process import PACKAGES
from task.ray_start import ray_running
from task.settings import Student


@contextlib.contextmanager
def connected(settings: Student, cpus: int | None = None) -> Iterator[None]:
    """Connect to the cluster at `settings.ray_address`, or start a local one; a connection that exists is used.

    Args:
        cpus: CPUs of a local cluster; None for as many as a training run needs.

    Raises:
        InputError: See `task.ray_start.ray_running`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    if settings.ray_address is None:
        # Ray Train (2.60) polls its workers every 2 s and saw the end of a run 4 s late; with 0.25 s it is 1 s. The
        # preemption watcher is a process that waits for a cluster to drain this node.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    workers = settings.workers * (settings.cpus_per_worker if settings.use_gpu else 1)
    variables = {
        "PYTHONPATH": os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(settings.cpus_per_worker),
        **{k: v for k, v in os.environ.items() if k.startswith(("MLFLOW_", "WANDB_"))},
    }
    local = {"num_cpus": max(2, cpus or workers + 1), "include_dashboard": False}
    with ray_running(
        settings.ray_address, field="student.ray_address", variables=variables, local=local, ignore_reinit_error=True,
        log_to_driver=False, logging_level=logging.ERROR,
    ):
        yield
