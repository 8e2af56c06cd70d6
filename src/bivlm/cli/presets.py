"""bivlm presets: the list of presets."""

from __future__ import annotations

from bivlm.cli.shared import MORE, JsonOption, command, out_console, print_json


@command("presets", MORE, "bivlm presets")
def presets(json_: JsonOption = False) -> None:
    """List the presets and what they do."""
    from bivlm.cli.tables import presets_table
    from bivlm.job.presets import presets as all_presets

    found = all_presets()
    if json_:
        print_json(found)
    else:
        out_console.print(presets_table(found))
