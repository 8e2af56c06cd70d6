"""bivlm chat: a conversation in the terminal, with the model kept loaded."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bivlm.cli.sampled import SeedOption, TemperatureOption, TopPOption
from bivlm.cli.shared import (
    MAIN,
    MORE,
    AdapterOption,
    MaxPixelsOption,
    ModelArgument,
    PruneOption,
    TokensOption,
    TrustOption,
    chosen_pruning,
    command,
    note,
    on_terminal,
    quiet_libraries,
    shown,
)
from bivlm.errors import InputError, cut

if TYPE_CHECKING:
    from bivlm.serving.conversation import Conversation

HISTORY = "chat-history"  # in the folder of the user's settings
PROMPT = "> "
HELP = """\
/image FILE   a picture for the next question; again for more pictures
/prune SPEC   which visual tokens to drop from now on, like attention:layer=2,keep=0.25; none for none
/clear        begin anew: earlier questions, answers and pictures are forgotten
/save FILE    write the conversation as JSON (messages), which `bivlm data` and `bivlm eval` read
/help         these lines
/quit         end; Ctrl-D does it too, and Ctrl-C stops an answer"""


@command(
    "chat",
    MAIN,
    "bivlm chat out",
    'bivlm chat out --image photo.jpg --system "Answer in one sentence."',
)
def chat(
    model: ModelArgument,
    image: Annotated[
        list[str] | None,
        typer.Option(help="a picture for the first question; may be repeated", show_default=False),
    ] = None,
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="system prompt", show_default=False, rich_help_panel=MORE)
    ] = "",
    max_new_tokens: TokensOption = 512,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    prune: PruneOption = None,
    adapter: AdapterOption = None,
    max_pixels: MaxPixelsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Talk with a model, packed or not, about pictures or without. /help lists what may be typed.

    What is not typed at a terminal is read line by line, a question or a command each.
    """
    quiet_libraries()
    from bivlm.loading import load
    from bivlm.serving.asked import Sampling
    from bivlm.serving.conversation import Conversation

    sampling = Sampling(temperature, top_p, seed)
    loaded, processor = load(
        model,
        pruning=chosen_pruning(prune),
        adapter=adapter,
        max_pixels=max_pixels,
        trust_remote_code=trust_remote_code,
    )
    talk = Conversation(loaded, processor, system, sampling, max_new_tokens)
    for name in image or ():
        talk.add_image(name)
    if sys.stdin.isatty():
        _say("a line is a question; /image FILE adds a picture, /help lists the rest")
    for line in _typed() if sys.stdin.isatty() and on_terminal else sys.stdin:
        try:
            if not _heard(talk, line.rstrip()):
                return
        except InputError as error:
            _say(f"{error}", "red")


def _heard(talk: Conversation, line: str) -> bool:
    """Answer a question, or do what a command says; whether the chat goes on. Raises InputError."""
    if not line.startswith("/"):
        if line.strip():
            _answer(talk, line.strip())
        return True
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit"):
        return False
    if name not in COMMANDS:
        raise InputError(
            f"there is no {cut(name)}; /help lists the commands, a space before makes it a question"
        )
    COMMANDS[name](talk, rest.strip())
    return True


def _answer(talk: Conversation, question: str) -> None:
    """Print an answer while it is made; Ctrl-C stops it."""
    started = time.perf_counter()
    with _stopped_by_ctrl_c() as stop:
        try:
            ended = talk.ask(question, lambda text: print(shown(text), end="", flush=True), stop)
        except KeyboardInterrupt:  # pressed again: while a prompt is read nothing can stop it sooner
            ended = None
    print(flush=True)
    if ended is None or ended.reason == "cancelled":
        _say("stopped")
    elif on_terminal:
        spent = time.perf_counter() - started
        _say(f"{ended.answer_tokens} tokens in {spent:.1f} s")


def _say(line: str, style: str = "dim") -> None:
    """A line that is no part of the conversation."""
    note.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[Flag]:
    """Within this context Ctrl-C sets a flag; pressed again, it is KeyboardInterrupt."""
    stop = Flag()

    def pressed(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _typed() -> Iterable[str]:
    """The lines that are typed, with those of earlier chats a key away. Ctrl-D ends them."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import NestedCompleter, PathCompleter

    files = PathCompleter(expanduser=True)
    known: dict[str, Any] = dict.fromkeys((*COMMANDS, "/quit"))
    completer = NestedCompleter.from_nested_dict({**known, "/image": files, "/save": files})
    session: PromptSession[str] = PromptSession(
        history=_history(), completer=completer, complete_while_typing=False
    )
    while True:
        try:
            yield session.prompt(PROMPT)
        except KeyboardInterrupt:  # forgets the line
            continue
        except EOFError:
            return


def _history() -> Any:
    """What was typed in earlier chats, in a file that its owner alone reads; of this chat alone where no file
    can be written.
    """
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = Path(typer.get_app_dir("bivlm")) / HISTORY
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)


def _image(talk: Conversation, rest: str) -> None:
    """Add pictures; names with spaces may be quoted."""
    if not rest:
        raise InputError("/image needs a file: /image photo.jpg")
    try:
        names = [rest] if Path(rest).expanduser().exists() else shlex.split(rest)
    except (OSError, ValueError):
        names = [rest]
    for name in names:
        talk.add_image(name)
    _say(f"pictures for the next question: {talk.images_waiting}")


def _prune(talk: Conversation, rest: str) -> None:
    if rest:
        talk.prune(None if rest == "none" else rest)
    _say(f"pruning: {talk.pruning or 'none'}")


def _clear(talk: Conversation, rest: str) -> None:
    talk.clear()
    _say("a new conversation")


def _save(talk: Conversation, rest: str) -> None:
    if not rest:
        raise InputError("/save needs a file: /save chat.json")
    talk.save(Path(rest).expanduser())
    _say(f"written: {rest}")


def _help(talk: Conversation, rest: str) -> None:
    print(HELP)


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/image": _image,
    "/prune": _prune,
    "/clear": _clear,
    "/save": _save,
    "/help": _help,
}
