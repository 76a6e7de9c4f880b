"""Nested state to flat files and back: tensors in safetensors, the rest in JSON. No pickle, no torch.load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from genzoo.errors import RunError
from genzoo.records import write_bytes
from genzoo.safe_files import reason
from genzoo.safe_json import parse_json
from genzoo.safe_tensors import Entry, read_header

FORM = "1"
"""Version of the state file."""

TENSOR, INT_KEYS, TUPLE = "$tensor", "$int_keys", "$tuple"


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Tensors by number, and a JSON tree that points to them. Leaves: tensors, numbers, strings, booleans, None."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = str(len(tensors))
            # clones part shared storage, which safetensors refuses
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {TENSOR: name}
        if isinstance(node, Mapping):
            if node and all(isinstance(key, int) for key in node):
                return {INT_KEYS: {str(key): walk(value) for key, value in node.items()}}
            return {str(key): walk(value) for key, value in node.items()}
        if isinstance(node, tuple):
            return {TUPLE: [walk(value) for value in node]}
        if isinstance(node, list):
            return [walk(value) for value in node]
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"state may hold tensors, numbers, strings, lists and dicts; got {type(node).__name__}")

    return tensors, walk(tree)


def unflatten(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """The inverse of `flatten`; tensors on the CPU. Raises ValueError for a tree that `flatten` cannot have made."""
    if isinstance(tree, list):
        return [unflatten(tensors, value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {TENSOR}:
        name = tree[TENSOR]
        if not isinstance(name, str) or name not in tensors:
            raise ValueError("it points to a tensor that is not there")
        return tensors[name]
    if tree.keys() == {INT_KEYS}:
        if not isinstance(tree[INT_KEYS], dict):
            raise ValueError(f"{INT_KEYS} is no object")
        return {int(key): unflatten(tensors, value) for key, value in tree[INT_KEYS].items()}
    if tree.keys() == {TUPLE}:
        if not isinstance(tree[TUPLE], list):
            raise ValueError(f"{TUPLE} is no list")
        return tuple(unflatten(tensors, value) for value in tree[TUPLE])
    return {key: unflatten(tensors, value) for key, value in tree.items()}


def copied(tree: Any) -> Any:
    """The same tree with its tensors cloned, so that later steps do not change it."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value) for value in tree)
    return tree


def save_state(path: Path, tree: Any) -> None:
    """Write a state tree as one safetensors file, its JSON and a SHA-256 over both in the header; atomically."""
    tensors, skeleton = flatten(tree)
    tensors.setdefault("", torch.zeros(0))  # safetensors wants at least one
    text = json.dumps(skeleton)
    metadata = {"genzoo": FORM, "tree": text, "sha256": _digest(tensors, text)}
    write_bytes(path, safetensors.torch.save(tensors, metadata=metadata))


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; RunError naming the file when it is missing, foreign, newer or damaged."""
    _, metadata = header(path)
    if "genzoo" not in metadata or "tree" not in metadata:
        raise RunError(f"{path} is not a genzoo state file")
    if metadata["genzoo"] != FORM:
        form = metadata["genzoo"][:20]
        raise RunError(f"{path} has form {form!r}; this genzoo reads {FORM!r}: install a newer one, or delete it")
    tensors = load_tensors(path)
    if metadata.get("sha256") != _digest(tensors, metadata["tree"]):
        raise RunError(f"{path} is damaged: its checksum does not fit; delete it")
    try:
        return unflatten(tensors, parse_json(metadata["tree"], any_number=True))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}; delete it") from None


def header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """What a safetensors file says that it holds; RunError naming it when it is missing, foreign or damaged."""
    try:
        return read_header(path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    except ValueError as error:
        raise RunError(
            f"cannot read {path}: {error}; copy it anew, or delete its folder and run the same command again"
        ) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header was found to be sound."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from None


def _digest(tensors: Mapping[str, Tensor], tree: str) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
