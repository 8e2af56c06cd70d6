"""bivlm presets: the list of presets."""

from __future__ import annotations

from bivlm.cli.shared import MORE, JsonOption, command, out_console, print_json


@command("presets", MORE, "bivlm presets")
def presets(json_: JsonOption = False) -> None:
    """List the presets and what they do."""
    from bivlm.cli.tables import presets_table
    from bivlm.job.recipe import load_recipe, preset_names

    recipes = [load_recipe(name) for name in preset_names()]
    if json_:
        print_json(
            [
                {
                    "name": recipe.name,
                    "true_bits": recipe.true_bits,
                    "needs_data": recipe.needs_data,
                    "description": recipe.description,
                }
                for recipe in recipes
            ]
        )
    else:
        out_console.print(presets_table(recipes))
