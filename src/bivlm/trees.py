"""Tensors in what a model hands to its blocks and gets from them: nested tuples, lists and mappings.

Mappings are dictionaries and whatever behaves like one (transformers' outputs, the dictionary in which blocks
share keys and values); anything else is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from torch import Tensor

Change = Callable[[Tensor], Tensor]
Place = tuple[Any, ...]  # keys and indices, from the outside in


def mapped(tree: Any, change: Change) -> Any:
    """The same tree with every tensor changed; its containers are new ones."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, MutableMapping):
        own = copy.copy(tree)
        for key, value in tree.items():
            own[key] = mapped(value, change)
        return own
    if isinstance(tree, list):
        return [mapped(value, change) for value in tree]
    if isinstance(tree, tuple):
        values = [mapped(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return tree


def change_in_place(tree: Any, change: Change) -> Any:
    """`tree` with every tensor changed: mappings and lists stay the same objects."""
    if isinstance(tree, MutableMapping):
        for key, value in list(tree.items()):
            tree[key] = change_in_place(value, change)
        return tree
    if isinstance(tree, list):
        tree[:] = [change_in_place(value, change) for value in tree]
        return tree
    if isinstance(tree, tuple):
        values = [change_in_place(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return change(tree) if isinstance(tree, Tensor) else tree


def tensors(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor with its place, in order."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, MutableMapping):
        for key, value in tree.items():
            yield from tensors(value, (*place, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from tensors(value, (*place, index))


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor, if there is one."""
    return next((value for _, value in tensors(tree)), None)


def same(value: Tensor) -> Tensor:
    return value
