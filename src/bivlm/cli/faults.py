"""How a command ends when something is wrong: one line on standard error, and an exit code.

    0     done
    1     a fault of this package: BIVLM_TRACEBACK=1 shows where
    2     what was given, or the place where it runs: the line says what to do
    130   Ctrl-C
    141   the reader of the output has gone, as of `bivlm … | head -1`; nothing is said

With `--json` the line is also an object on standard output, {"error": {"type": …, "message": …}}, unless the
result is there already.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bivlm.checkpoint.guards import is_lack_of_memory
from bivlm.cli.shared import json_printed
from bivlm.errors import InputError, cut, printable

BUG, MISTAKE, INTERRUPTED, NO_READER = 1, 2, 130, 141
TRACEBACK = "BIVLM_TRACEBACK"
ADVICE = {
    errno.ENOSPC: "make room, and run the same command again",
    errno.EDQUOT: "make room, and run the same command again",
    errno.EFBIG: "allow larger files (ulimit -f), and run the same command again",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give a place that you may use",
    errno.EPERM: "give a place that you may use",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close some programs: the system has no open file left",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOMEM: "free some memory, or allow more (ulimit -v)",
    errno.EAGAIN: "allow more processes (ulimit -u)",
    errno.EIO: "the disk may be damaged",
}
# how libraries say, in exceptions of their own, that the disk is full
NO_ROOM = ("no space left on device", "os error 28", "disk quota exceeded", "os error 122")


def prepare_streams() -> None:
    """Let nothing that is printed fail by its characters: what the terminal's encoding does not have is
    replaced in output and escaped in messages.
    """
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)  # pyright: ignore[reportAttributeAccessIssue]


def run(command: Callable[[], object]) -> int:
    """Run the command line; returns the exit code."""
    json_printed.clear()
    try:
        _check_place()
        try:
            command()
            ended: SystemExit | None = None
        except SystemExit as error:
            ended = error
        if ended is not None and ended.code not in (None, 0):
            return _ended(ended)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk and a reader that has gone are noticed here
    except KeyboardInterrupt:
        return _interrupted()
    except BaseException as error:  # also a panic in a library written in Rust, which is no Exception
        return tell(error)
    return 0


def _check_place() -> None:
    """Raises InputError where the working directory was deleted: torch itself does not start there."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working directory cannot be used ({error.strerror}); change to one that exists"
        ) from error


def tell(error: BaseException) -> int:
    """Say what went wrong, in one line; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return _interrupted()
    if os.environ.get(TRACEBACK, "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        _to_nowhere()
        return NO_READER
    code, message = explained(error)
    _say(type(error).__name__, message)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _to_nowhere()
    return code


def explained(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception, and what it means in words."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    text = cut(str(error).strip().partition("\n")[0], 300)
    causes = list(chain(error))
    everything = " ".join(map(str, causes)).lower()
    if isinstance(error, InputError):
        return MISTAKE, printable(str(error))
    if any(map(is_lack_of_memory, causes)):
        return MISTAKE, "there is not enough memory; free some, allow more (ulimit -v), or ask less at a time"
    if any(words in everything for words in NO_ROOM):
        return MISTAKE, f"the disk is full{_named(error)}; {ADVICE[errno.ENOSPC]}"
    if isinstance(error, OSError):
        advice = ADVICE.get(error.errno or 0)
        return MISTAKE, (
            printable(error.strerror or text) + _named(error) + (f"; {advice}" if advice else "")
        )
    if isinstance(error, RecursionError):
        return MISTAKE, "a file that was read is nested too deeply; get it again"
    if isinstance(error, UnicodeError):
        return MISTAKE, f"a text is not in the encoding that is needed ({text}); write it in UTF-8"
    return BUG, (
        f"{type(error).__name__}: {text or 'no message'}; this is a fault of bivlm: {TRACEBACK}=1 shows"
        " where, please report it"
    )


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _named(error: BaseException) -> str:
    """The file of an error, if it names one."""
    name = getattr(error, "filename", None)
    return f": {cut(os.fsdecode(name), 200)}" if isinstance(name, str | bytes) else ""


class Silent(SystemExit):
    """The end of a process that says nothing about it: it was said, or another process says it."""


def _ended(ended: SystemExit) -> int:
    """A command that the parser of the command line ended, and has explained."""
    if isinstance(ended, Silent):
        return ended.code if isinstance(ended.code, int) else BUG
    cause = ended.__context__
    if isinstance(cause, BrokenPipeError):
        _to_nowhere()
        return NO_READER
    if ended.code == INTERRUPTED:
        return _interrupted()
    if cause is not None and hasattr(cause, "format_message"):
        _print_error("UsageError", cause.format_message())  # pyright: ignore[reportAttributeAccessIssue]
    return ended.code if isinstance(ended.code, int) else BUG


def _interrupted() -> int:
    _say("KeyboardInterrupt", "interrupted; what is finished is kept, and the same command continues", "")
    return INTERRUPTED


def _say(kind: str, message: str, mark: str = "error: ") -> None:
    with suppress(OSError, ValueError):  # standard error may be closed or full
        print(f"bivlm: {mark}{message}", file=sys.stderr, flush=True)
    _print_error(kind, message)


def _print_error(kind: str, message: str) -> None:
    """The error as an object on standard output, where JSON is wanted and none was printed."""
    if "--json" in sys.argv[1:] and not json_printed.is_set():
        with suppress(OSError, ValueError):
            print(json.dumps({"error": {"type": kind, "message": message}}), flush=True)


def _to_nowhere() -> None:
    """Give up standard output: Python would try once more to write what is left when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
