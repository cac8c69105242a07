"""The command line: the application, its error handling and exit codes. The commands are in `limbeck.commands`.

A command is a typed function; heavy imports wait until a command needs them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, TextIO

import typer

from limbeck import __version__
from limbeck.commands import console, exchange, measuring, operations, rounds, studies
from limbeck.commands import run as stages
from limbeck.commands.help import PanelGroup

os.environ.setdefault("TQDM_DISABLE", "1")  # one progress display, ours
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="limbeck",
    help="Distil an expensive labelling LLM into a small student that answers in milliseconds.\n\n"
    "Start with `limbeck plan configs/market.yaml`, then `limbeck run configs/market.yaml`.",
    epilog="Exit codes: 0 done; 1 a gate failed, a component failed, or less was done than was given: the same command "
    "does the rest; 2 usage or bad input; 3 the measurement is invalid; 130 stopped by Ctrl-C; 143 by SIGTERM; "
    "141 nobody reads the output any more. "
    "`limbeck serve` is ended by either, with 0.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    cls=PanelGroup,
    context_settings={"max_content_width": 110},
)
for part in (stages, studies, measuring, operations, rounds, console, exchange):
    app.add_typer(part.app)


_INTERRUPTED = 130  # typer's exit code for Ctrl-C, of which it says nothing
_UNREAD = 141  # of a process that SIGPIPE has ended, as that of `cat FILE | head` is
_TERMINATED = 143  # of a process that SIGTERM has ended


def main() -> None:
    """Entry point: the command line, which ends quietly when nobody reads its output any more."""
    try:
        _main()
    except SystemExit as end:
        # typer and rich end a command whose output cannot be written with 1, which is a failed gate's code.
        if isinstance(end.__context__, BrokenPipeError) or not _flushed():
            raise SystemExit(_UNREAD) from None
        raise


def _flushed() -> bool:
    """Write what is left of the output, with which Python would end in a traceback; False if nobody reads."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _main() -> None:
    """Errors and warnings that a person can act on become one line each, errors an exit code too."""
    from task.errors import InputWarning, own_error

    # A table is read by several stages; what there is to say of it is said once.
    warnings.filterwarnings("once", category=InputWarning)
    warnings.showwarning = _show_warning
    stopped = _Stopped()
    try:
        with _sigterm_as_ctrl_c() as stopped:
            app()
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}. Is the disk full, or the folder not writable?", 2)
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        _fail("stopped; run the same command to resume", stopped.code)
    except Exception as error:
        if (own := own_error(error)) is None:
            raise
        _fail(str(own), own.exit_code)


class _Stopped:
    """What has ended a command: Ctrl-C, or SIGTERM in the same way."""

    code = _INTERRUPTED


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[_Stopped]:
    """Let SIGTERM, which schedulers and `kill` send, end a command as Ctrl-C does.

    In the background of a shell, and under nohup, a command ignores SIGINT: there is no handler to call.
    """
    stopped = _Stopped()

    def stop(_sign: int, frame: FrameType | None) -> None:
        stopped.code = _TERMINATED
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)  # those of Ray and asyncio end their own work first

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours as one line on standard error, above the progress display; others as Python shows them."""
    from task.errors import InputWarning

    text = (
        f"limbeck: warning: {message}\n" if issubclass(category, InputWarning)
        else warnings.formatwarning(message, category, filename, lineno, line)
    )
    (file or sys.stderr).write(text)


def _fail(text: str, code: int) -> None:
    print(f"limbeck: {text}", file=sys.stderr)
    raise SystemExit(code)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    del version


if __name__ == "__main__":
    main()
