"""The options that say how the tokens of an answer are chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from bivlm.cli.shared import MORE

TemperatureOption = Annotated[
    float,
    typer.Option(
        help="0: always the likeliest token; above, up to 2: drawn, the more freely the higher it is",
        rich_help_panel=MORE,
    ),
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p", help="draw from the likeliest tokens with this probability together", rich_help_panel=MORE
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="seed of the draws; left out: another each time", show_default=False, rich_help_panel=MORE
    ),
]
