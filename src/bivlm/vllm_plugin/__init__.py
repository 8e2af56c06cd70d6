"""The plug-in of vLLM: packed folders load and answer there (docs/vllm.md).

vLLM finds `register` by the entry point `vllm.general_plugins`. It needs another transformers than the rest
of bivlm, so this package imports nothing of bivlm that needs one: formats, kernels, the modules of a packed
folder as config.json describes them. Only `config.py`, `linears.py` and `tables.py` import vLLM.
"""

from __future__ import annotations


def register() -> None:
    """Make vLLM know the quantization "bivlm"; vLLM calls it in each of its processes, perhaps twice."""
    import bivlm.vllm_plugin.config  # noqa: F401 - the import registers
