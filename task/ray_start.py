"""The start of Ray, or the connection to a cluster: the same for labelling and for training."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from task.errors import InputError
from task.python_process import PACKAGES

# Of a path `TMPDIR/ray/session_2026-01-02_03-04-05_678901_1234567/sockets/plasma_store`; Linux allows 107 in all.
_LONGEST_TMPDIR = 107 - len("/ray/session_2026-01-02_03-04-05_678901_1234567/sockets/plasma_store")
_ANSWERS_WITHIN_S = 10.0
# Ray (2.60) gives its processes a fixed 30 s; on a busy machine they take longer, once: their files are in memory then.
_TOO_SLOW = "timed out during startup"
_SHORT = Path("/tmp")  # noqa: S108 (nothing but a folder with a random name is made there)


@contextlib.contextmanager
def ray_running(
    address: str | None, *, field: str, variables: Mapping[str, str], local: Mapping[str, Any] = {}, **options: Any
) -> Iterator[None]:
    """Connect to the cluster at an address, or start Ray on this machine, and shut the connection down afterwards.

    Args:
        address: Of a cluster; None starts Ray here, whatever `RAY_ADDRESS` says, and once more if that takes too long.
        field: The setting with the address.
        variables: Environment variables of the workers.
        local: Options of `ray.init` for a local start only.
        options: Options of `ray.init`.

    Raises:
        InputError: No cluster answers at the address, it runs another version of Ray or Python, or Ray cannot start.
    """
    import ray

    if address is not None:
        _check_answers(address, field)
    options["runtime_env"] = {"env_vars": dict(variables)}
    if address is None or not address.startswith("ray://"):  # Ray's client does not give workers its folder
        options["runtime_env"]["worker_process_setup_hook"] = _ours_first(str(PACKAGES))
    with _own_sigterm(always=True), _short_folder() if address is None else contextlib.nullcontext() as folder:
        here = {**local, **({} if folder is None else {"_temp_dir": str(folder)})} if address is None else {}
        for last in (address is not None, True):
            try:
                with _own_sigterm(always=False):
                    ray.init(address=address or "local", **options, **here)
                break
            except Exception as error:
                if last or _TOO_SLOW not in str(error):
                    raise explained(error, address, field) from error
                ray.shutdown()
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_sigterm(*, always: bool) -> Iterator[None]:
    """Put back how SIGTERM was handled: Ray (2.60) sets a handler of its own, which says nothing, and leaves it.

    Args:
        always: Also where the program has no handler, and Ray's shall end what Ray has started.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        put_back = callable(before) or (always and before is not None)  # None: not set by Python
        if put_back and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str, field: str) -> None:
    """Raise `InputError` where nothing listens at `host:port`: Ray (2.60) tries for minutes before it says so."""
    try:
        at = urlsplit(address if "://" in address else f"//{address}")
        host, port = at.hostname, at.port
    except ValueError:  # no number: Ray has its own words for it
        return
    if host is None or port is None or at.scheme not in {"", "ray"}:
        return
    try:
        socket.create_connection((host, port), timeout=_ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at this address: {error.strerror or error}", field=field, found=address,
            expected="the address of a running cluster: host:6379, ray://host:10001, auto, or null for a local run",
        ) from error


def explained(error: Exception, address: str | None, field: str) -> InputError:
    """What kept Ray from starting, or the cluster from being reached."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "Version mismatch" in text or "Python version" in text:
        return InputError(
            f"the cluster and this process run different versions: {text}", field=field, found=address,
            expected="a cluster with the same versions of Ray and Python, the last digit of Python's included",
            fix="Install these versions here, or start the cluster with ours",
        )
    if address is not None:
        return InputError(
            f"no Ray cluster can be reached: {text}", field=field, found=address,
            expected="an address such as auto or ray://host:10001, or null for a local run",
        )
    if "AF_UNIX" in text:
        return InputError(
            f"Ray's sockets cannot be made: {text}", field="the environment variable TMPDIR",
            found=os.environ.get("TMPDIR"), expected=f"a path of at most {_LONGEST_TMPDIR} bytes",
            fix="Set TMPDIR=/tmp",
        )
    if _TOO_SLOW in text:
        return InputError(
            f"Ray cannot start on this machine, which may be too busy: {text}",
            fix="Run the same command again when other programs leave it some time",
        )
    return InputError(f"Ray cannot start on this machine: {text}")


@contextlib.contextmanager
def _short_folder() -> Iterator[Path | None]:
    """A short path to TMPDIR where its own is too long for Ray's sockets, as batch systems set it; else None."""
    long = tempfile.gettempdir()
    if len(os.fsencode(long)) <= _LONGEST_TMPDIR or not os.access(_SHORT, os.W_OK):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ray-", dir=_SHORT, ignore_cleanup_errors=True) as short:
        link = Path(short) / "t"
        link.symlink_to(long)  # what Ray writes stays where the batch system wants it
        yield link
        link.unlink(missing_ok=True)


def _ours_first(packages: str) -> Callable[[], None]:
    """What a worker does before its first task: load our packages, which no file of the driver's folder replaces then.

    Ray (2.60) puts the driver's current folder first on the path of its workers, after this has run. Pickled by value:
    by name, a worker would look for it in that folder.

    Python's garbage collector looks less often for garbage from then on: in a worker that imports torch and
    transformers it took a fifth of the processor time, and found nothing.
    """

    def hook() -> None:
        import contextlib
        import gc
        import importlib
        import sys

        gc.set_threshold(20_000, 20, 100)
        sys.path.insert(0, packages)
        for name in ("engine", "eval", "limbeck", "llm_client", "samples", "serving", "student", "task", "teacher"):
            with contextlib.suppress(ImportError):  # the first task says so better
                importlib.import_module(name)

    return hook
