"""Which packed weights a layer of vLLM multiplies with.

vLLM has names of its own. A model class renames the tensors of a checkpoint (`hf_to_vllm_mapper`), and
several linears of the checkpoint are one layer (`packed_modules_mapping`: q_proj, k_proj and v_proj are
qkv_proj). Both are given here. One more difference is known here: transformers 5.23 and later have no module
`vision_model` inside the vision tower of CLIP and SigLIP, and folders that they saved do not name it; vLLM
does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from bivlm.checkpoint.modules import ModuleSpec
from bivlm.errors import InputError

FUSED: Mapping[str, Sequence[str]] = {  # of parts whose own class says nothing, as towers
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
LEVEL = re.compile(r"\bvision_tower\.vision_model\.")
WITHOUT_LEVEL = re.compile(r"\bvision_tower\.(?!vision_model\.)")
_NUMBERS = re.compile(r"\b\d+\b")

Rename = Callable[[str], str | None]


class Names:
    """The packed modules of a folder, looked up by the names of vLLM's layers. `used` has the names of those
    that were found.
    """

    def __init__(self, modules: Mapping[str, ModuleSpec]) -> None:
        self.modules = dict(modules)
        self.used: set[str] = set()
        self.has_level = False
        self._renamed = False
        self._by_prefix = {spec.key.rstrip("."): name for name, spec in modules.items()}

    def rename(self, rename: Rename) -> None:
        """Take over how a model class renames tensors: of the outermost class alone, which calls first; those
        of the models inside it are about their own names.
        """
        if self._renamed:
            return
        self._renamed, by_prefix = True, {}
        for prefix, name in self._by_prefix.items():
            found = rename(f"{prefix}.weight")
            by_prefix[prefix if found is None else found.rpartition(".")[0]] = name
        self._by_prefix = by_prefix

    def linears(self, prefix: str, fused: Mapping[str, Sequence[str]]) -> list[tuple[str, ModuleSpec | None]]:
        """The stored weights of a linear layer in the order of its outputs, each with its name and None if it
        is not packed; [] if none is. `fused` is the model's own `packed_modules_mapping`.
        """
        whole = self._find(prefix)
        if whole is not None:
            return [whole]
        head, _, leaf = prefix.rpartition(".")
        parts = {**FUSED, **fused}.get(leaf, ())
        places = [f"{head}.{part}" if head else part for part in parts]
        found = [self._find(place) for place in places]
        if not any(found):
            return []
        return [one or (place, None) for place, one in zip(places, found, strict=True)]

    def table(self, kind: str, shape: tuple[int, int], prefix: str) -> tuple[str, ModuleSpec] | None:
        """The packed embedding or head (`kind`) that a layer of this shape (vocabulary, hidden size) is; None
        if it is not packed. vLLM's models often leave an embedding without a name, so the kind decides.

        InputError if several could be meant, or if the one that is named has another shape.
        """
        named = self._find(prefix) if prefix else None
        if named is not None and named[1].shape != shape:
            raise InputError(
                f"the packed table {named[0]} is {named[1].shape}, and vLLM's {prefix} is {shape}; give the"
                " folder that was packed from this model"
            )
        fitting = [(n, s) for n, s in self.modules.items() if (s.kind, s.shape) == (kind, shape)]
        if named is None and len(fitting) > 1:
            raise InputError(
                f"vLLM's {prefix or kind} could be {' or '.join(name for name, _ in fitting)} of this folder;"
                " the plug-in cannot tell them apart"
            )
        found = named or (fitting[0] if fitting else None)
        if found is not None:
            self.used.add(found[0])
        return found

    def tied_to(self, shape: tuple[int, int]) -> bool:
        """Whether a head of this shape shares the weight of a packed embedding."""
        return any(
            spec.kind == "embedding" and spec.head is not None and spec.shape == shape
            for spec in self.modules.values()
        )

    def under(self, prefix: str) -> str | None:
        """A packed module inside the layer `prefix`, if there is one."""
        return next((name for place, name in self._by_prefix.items() if place.startswith(f"{prefix}.")), None)

    def without_place(self) -> list[str]:
        """The packed linears that no layer asked for, by pattern: a pattern has `*` for numbers. Layers that
        vLLM leaves out at the end of a stack have the pattern of others, and are not among them.
        """
        linears = {name for name, spec in self.modules.items() if spec.kind == "linear"}
        return sorted(_patterns(linears - self.used) - _patterns(self.used))

    def _find(self, prefix: str) -> tuple[str, ModuleSpec] | None:
        self.has_level |= LEVEL.search(prefix) is not None
        for place in (prefix, LEVEL.sub("vision_tower.", prefix)):
            name = self._by_prefix.get(place)
            if name is not None:
                self.used.add(name)
                return name, self.modules[name]
        return None


def _patterns(names: Iterable[str]) -> set[str]:
    return {_NUMBERS.sub("*", name) for name in names}
