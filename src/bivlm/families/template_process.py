"""The process that renders chat templates: they are programs from strangers, so they run apart, with little
time and memory.

templates.py starts this file with `python -I -S FILE SETTINGS`; it imports nothing of this package. It reads
requests from standard input, one a line, and answers with a line each, in JSON:

    {"template": …, "variables": {…}}  ─►  {"text": …}  or  {"error": …, "line": …}

The environment is that of transformers' `apply_chat_template`: Jinja's sandbox with the same filters, globals
and tags. A template that takes too long is ended by the system (SIGXCPU).
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from datetime import datetime
from math import ceil
from typing import Any

SETTINGS: dict[str, Any] = json.loads(sys.argv[1]) if __name__ == "__main__" else {"path": []}
sys.path += SETTINGS["path"]  # where jinja2 is; the standard library comes first

from jinja2 import ext, nodes, utils  # noqa: E402
from jinja2.exceptions import SecurityError, TemplateError  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: E402


class Generation(ext.Extension):
    """`{% generation %} … {% endgeneration %}` marks what an assistant says; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        return caller()


class Dict:
    """`dict(…)` without access to the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class Namespace(utils.Namespace):
    """`namespace(…)` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        utils.Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with an underscore in front: {name!r}")


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        "dict": Dict(),
        "namespace": Namespace,
    }
    return made


def render(template: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """The text, or the fault and its line."""
    text: list[str] = []
    size = 0
    try:
        for piece in template.generate(variables):
            text.append(piece)
            size += len(piece)
            if size > SETTINGS["characters"]:
                return {"error": f"it writes more than {SETTINGS['characters']} characters"}
    except Exception as error:
        return fault(error)
    return {"text": "".join(text)}


def fault(error: Exception) -> dict[str, Any]:
    """What went wrong in a template, in words, and on which of its lines."""
    line = getattr(error, "lineno", None)
    place = error.__traceback__
    while line is None and place is not None:
        if place.tb_frame.f_code.co_filename == "<template>":
            line = place.tb_lineno
        place = place.tb_next
    if isinstance(error, MemoryError):
        return {"error": f"it needs more than {SETTINGS['memory'] >> 20} MiB of memory", "line": line}
    message = str(error)[:300]
    kind = "" if type(error) is TemplateError else f"{type(error).__name__}: "
    return {"error": f"{kind}{message}", "line": line}


def limit(what: int, most: int) -> None:
    """A limit of this process, or the lower one that is there already."""
    with suppress(ValueError, OSError):  # macOS knows no limit of memory
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    limit(resource.RLIMIT_AS, SETTINGS["memory"])
    limit(resource.RLIMIT_CORE, 0)
    rendering = environment()
    known: dict[str, Any] = {}
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, ceil(used.ru_utime + used.ru_stime) + SETTINGS["seconds"])
        request = json.loads(line)
        source = request["template"]
        try:
            if source not in known:
                known.clear()  # one is enough: a command asks one model at a time
                known[source] = rendering.from_string(source)
            answer = render(known[source], request["variables"])
        except Exception as error:
            answer = fault(error)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
