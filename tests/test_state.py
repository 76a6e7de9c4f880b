"""State of models, optimisers and learners in safetensors and JSON: there and back, and nothing damaged gets in."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genzoo.errors import RunError
from genzoo.state import copied, flatten, load_state, save_state, unflatten


def same(first: Any, second: Any) -> bool:
    """Equal trees: types, keys, and tensors bit for bit."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if type(first) is not type(second) and not isinstance(first, Mapping):
        return False
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and AdamW after two steps, whose state has integer keys, tuples and 0-d tensors."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.8, 0.9))
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    return net, optimizer


def test_an_optimiser_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    net, optimizer = trained()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    save_state(tmp_path / "x.safetensors", state)
    back = load_state(tmp_path / "x.safetensors")
    assert same(back, state)
    assert all(isinstance(key, int) for key in back["optimizer"]["state"])
    assert back["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.9)
    other, its = trained()
    for p in other.parameters():
        nn.init.zeros_(p)
    other.load_state_dict(back["net"])
    its.load_state_dict(back["optimizer"])
    for model, steps in ((net, optimizer), (other, its)):
        steps.zero_grad()
        model(torch.ones(5, 3)).sum().backward()
        steps.step()
    assert same(dict(other.state_dict()), dict(net.state_dict()))


tensors = st.sampled_from(
    [
        torch.zeros(()),
        torch.arange(6).view(2, 3).T,  # not contiguous
        torch.tensor([1.5, float("nan"), -float("inf")]).view(torch.int32),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([255], dtype=torch.uint8),
    ]
)
leaves = tensors | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc$", max_size=3), inner, max_size=3)
        | st.dictionaries(st.integers(0, 9), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_any_tree_is_the_same_after_flattening(tree: Any) -> None:
    flat, skeleton = flatten(tree)
    assert same(unflatten(flat, skeleton), tree)


def test_shared_storage_and_no_tensors_at_all(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    for name, tree in {"shared": {"a": shared, "b": shared[:2], "c": shared}, "bare": {"step": 3}}.items():
        save_state(tmp_path / name, tree)
        assert same(load_state(tmp_path / name), tree)


def test_what_is_no_state() -> None:
    with pytest.raises(TypeError, match="tensors, numbers, strings, lists and dicts; got set"):
        flatten({"a": {1, 2}})


def test_a_copy_does_not_change_with_the_original() -> None:
    tree = {"a": torch.zeros(2), "b": [torch.ones(1)], "c": (torch.ones(1),), "d": 1}
    kept = copied(tree)
    tree["a"] += 1  # type: ignore[operator]
    tree["b"][0] += 1  # type: ignore[index]
    assert same(kept, {"a": torch.zeros(2), "b": [torch.ones(1)], "c": (torch.ones(1),), "d": 1})


def test_every_flipped_byte_of_the_tensors_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, {"a": torch.arange(8, dtype=torch.float32), "b": 1})
    whole = path.read_bytes()
    for at in range(len(whole) - 32, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RunError, match="is damaged: its checksum does not fit; delete it"):
            load_state(path)


def test_every_flipped_byte_of_the_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, {"a": torch.arange(8, dtype=torch.float32), "step": 12, "total": None})
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in range(header):
        if whole[at : at + 1] == b" ":
            continue  # padding
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RunError, match=r"x\.safetensors"):
            load_state(path)


@pytest.mark.parametrize("cut", [0, 7, 50, -1])
def test_a_truncated_file(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_state(path, {"a": torch.zeros(8)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunError, match=r"x\.safetensors"):
        load_state(path)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(RunError, match="cannot read"):
        load_state(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="is not a genzoo state file"):
        load_state(path)


def test_no_pickle_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return open, (str(tmp_path / "pwned"), "w")  # type: ignore[return-value]

    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunError, match="cannot read"):
        load_state(path)
    assert not (tmp_path / "pwned").exists()
