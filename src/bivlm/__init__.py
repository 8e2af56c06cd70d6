"""bivlm: vision-language models in two bits per weight or less, counted on the disk.

    import bivlm
    bivlm.quantize("path/to/model", "path/to/out", recipe="bivlm")
    model, processor = bivlm.load("path/to/out")

The public names are imported when they are first used, so `import bivlm` is fast. After it transformers' own
`from_pretrained` can read bivlm checkpoints.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import bivlm_autoload

if TYPE_CHECKING:
    from bivlm.adapting.run import adapt as adapt
    from bivlm.adapting.settings import AdaptSettings as AdaptSettings
    from bivlm.data.samples import read_samples as read_samples
    from bivlm.errors import InputError as InputError
    from bivlm.eval.answer import answer as answer
    from bivlm.eval.embedding.vectors import embed as embed
    from bivlm.eval.inspection import inspect as inspect
    from bivlm.eval.run import evaluate as evaluate
    from bivlm.events import Events as Events
    from bivlm.exporting.run import export_gguf as export_gguf
    from bivlm.families.base import Family as Family
    from bivlm.job.recipe import Recipe as Recipe
    from bivlm.job.recipe import Rule as Rule
    from bivlm.job.recipe import load_recipe as load_recipe
    from bivlm.job.run import quantize as quantize
    from bivlm.loading import load as load
    from bivlm.notebook import Bars as Bars
    from bivlm.pruning.apply import prune as prune
    from bivlm.pruning.base import Pruner as Pruner
    from bivlm.quantizers.base import Quantizer as Quantizer
    from bivlm.studies.compare.run import compare_presets as compare_presets
    from bivlm.studies.study import RunSettings as RunSettings
    from bivlm.types import Sample as Sample
    from bivlm.types import Video as Video

__version__ = "0.1.0"

_HOME = {
    "AdaptSettings": "bivlm.adapting.settings",
    "Bars": "bivlm.notebook",
    "Events": "bivlm.events",
    "Family": "bivlm.families.base",
    "InputError": "bivlm.errors",
    "Pruner": "bivlm.pruning.base",
    "Quantizer": "bivlm.quantizers.base",
    "Recipe": "bivlm.job.recipe",
    "Rule": "bivlm.job.recipe",
    "RunSettings": "bivlm.studies.study",
    "Sample": "bivlm.types",
    "Video": "bivlm.types",
    "adapt": "bivlm.adapting.run",
    "answer": "bivlm.eval.answer",
    "compare_presets": "bivlm.studies.compare.run",
    "embed": "bivlm.eval.embedding.vectors",
    "evaluate": "bivlm.eval.run",
    "export_gguf": "bivlm.exporting.run",
    "inspect": "bivlm.eval.inspection",
    "load": "bivlm.loading",
    "load_recipe": "bivlm.job.recipe",
    "prune": "bivlm.pruning.apply",
    "quantize": "bivlm.job.run",
    "read_samples": "bivlm.data.samples",
}

__all__ = [
    "AdaptSettings",
    "Bars",
    "Events",
    "Family",
    "InputError",
    "Pruner",
    "Quantizer",
    "Recipe",
    "Rule",
    "RunSettings",
    "Sample",
    "Video",
    "__version__",
    "adapt",
    "answer",
    "compare_presets",
    "embed",
    "evaluate",
    "export_gguf",
    "inspect",
    "load",
    "load_recipe",
    "prune",
    "quantize",
    "read_samples",
]

bivlm_autoload.init()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bivlm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
