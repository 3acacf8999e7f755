"""Numbers that names leave out are evidence of modules without parameters: asked, never guessed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qgf_ref
from qgf_ref import InputError
from qgf_ref.interop.foreign import load_foreign
from qgf_ref.interop.formats import recognised
from qgf_ref.nets.mlp import LayerParams, MLPParams
from tests.conftest import small_checkpoint
from tests.helpers.checkpoints import OPTIONS, official_tree, same
from tests.helpers.foreign_names import (
    Tensors,
    is_norm,
    members_first,
    odd,
    put,
    rules_for_odd,
    tensors_of,
    torch_leaf,
)

OURS = small_checkpoint()
Naming = Callable[[str, int, str, int | None], str]


def in_a_list(place: Callable[[int, bool], int]) -> Naming:
    """torch.nn.Sequential, each value's module at a place of its own; the others without gaps."""

    def name(network: str, layer: int, part: str, e: int | None) -> str:
        if network != "value":
            return members_first(network, layer, part, e)
        return f"v.net.{place(layer, is_norm(part))}.{torch_leaf(part)}"

    return name


def without(name: Naming, layer: int) -> Callable[[], Tensors]:
    """The value's LayerNorm of a layer has no parameters."""
    layers = list(OURS.value.layers)
    layers[layer] = LayerParams(layers[layer].kernel, layers[layer].bias)
    plain = OURS.with_params(value=MLPParams(tuple(layers)))
    return lambda: tensors_of(plain, name, transposed=True, apart=True)


def all_of(name: Naming) -> Callable[[], Tensors]:
    return lambda: tensors_of(OURS, name, transposed=True, apart=True)


def numbered(network: str, layer: int, part: str, e: int | None) -> str:
    member = "" if e is None else f".{e}"
    module = f"ln{layer + 1}" if is_norm(part) else f"fc{layer + 1}"
    return f"{network}{member}.{module}.{torch_leaf(part)}"


def blocks(network: str, layer: int, part: str, e: int | None) -> str:
    member = "" if e is None else f".{e}"
    return f"{network}{member}.block.{layer}.{'norm' if is_norm(part) else 'fc'}.{torch_leaf(part)}"


GAPS: dict[str, tuple[Callable[[], Tensors], str]] = {
    "an activation before the LayerNorm": (
        all_of(in_a_list(lambda i, norm: 3 * i + 2 * norm)),
        r"room for one module without parameters between v\.net\.0 and v\.net\.2, where its Layer",
    ),
    "Dropout before the LayerNorm": (
        all_of(in_a_list(lambda i, norm: 4 * i + 2 * norm)), "between v.net.0 and v.net.2",
    ),
    "Dropout after the activation": (
        all_of(in_a_list(lambda i, norm: 4 * i + norm)),
        r"room for 2 modules .* between v\.net\.1 and v\.net\.4, where only the activation",
    ),
    "a LayerNorm without parameters": (
        without(in_a_list(lambda i, norm: 3 * i + norm), 1),
        r"room for 2 modules .* between v\.net\.3 and v\.net\.6",
    ),
    "the last of them": (
        without(in_a_list(lambda i, norm: 3 * i + norm), 2), r"between v\.net\.6 and v\.net\.9",
    ),
    "no place for an activation": (
        all_of(in_a_list(lambda i, norm: 3 * i + norm - (i > 1))),
        "room for one module .* but .*room for no module .*an activation comes after every hidden",
    ),
    "something before the first layer": (
        all_of(in_a_list(lambda i, norm: 3 * i + norm + 1)), r"its list begins at v\.net\.1",
    ),
    "a lost number among attributes": (without(numbered, 1), r"value\.fc2 is followed by no Layer"),
    "the first": (without(numbered, 0), r"value\.fc1 is followed by no LayerNorm with"),
    "a lost number in a list of norms": (without(members_first, 1), r"layers\.1 is followed by no"),
    "a block without": (without(blocks, 1), r"value\.block\.1\.fc is followed by no LayerNorm"),
}  # fmt: skip


@pytest.mark.parametrize("what", GAPS)
def test_gaps_are_asked_about(what: str, tmp_path: Path) -> None:
    make, message = GAPS[what]
    path = put(tmp_path / "a.npz", make())
    with pytest.raises(InputError, match=rf"the value: .*{message}.*\"gaps\": \"as ours\""):
        qgf_ref.load(path, **OPTIONS)
    loaded = qgf_ref.load(path, rules={"gaps": "as ours"}, **OPTIONS)
    same(loaded.with_params(value=OURS.value), OURS)


NO_GAPS: dict[str, Naming] = {
    "activations in the list": in_a_list(lambda i, norm: 3 * i + norm),
    "activations in the code": in_a_list(lambda i, norm: 2 * i + norm),
    "attributes": numbered,
    "blocks": blocks,
    "lists of each": members_first,
    "lists in a list": lambda network, layer, part, e: (
        members_first(network, layer, part, e)
        if network != "value"
        else f"v.{layer}.{int(is_norm(part))}.{torch_leaf(part)}"
    ),
}


@pytest.mark.parametrize("what", NO_GAPS)
def test_numbers_without_a_gap(what: str, tmp_path: Path) -> None:
    same(qgf_ref.load(put(tmp_path / "a.npz", all_of(NO_GAPS[what])()), **OPTIONS), OURS)


@pytest.mark.parametrize("what", ["the first", "a block without"])
def test_names_in_the_alphabets_order_are_asked_where_their_norms_act(
    what: str, tmp_path: Path
) -> None:
    """Blocks of pre-norm behind a plain first layer look so, in whatever order their names come."""
    make, _ = GAPS[what]
    tensors = make()
    path = put(tmp_path / "a.npz", {name: tensors[name] for name in sorted(tensors)})
    with pytest.raises(InputError, match=r"no LayerNorm .*\(pre-norm, W f\(LayerNorm\(x"):
        qgf_ref.load(path, **OPTIONS)


def test_a_list_says_that_a_layer_has_no_norm(tmp_path: Path) -> None:
    """v.net.0, 1, (2), 3, (4), 5, 6, (7), 8: no room for a LayerNorm after 3."""
    name = in_a_list(lambda i, norm: 3 * i + norm - (i > 1))
    make = without(name, 1)
    loaded = qgf_ref.load(put(tmp_path / "a.npz", make()), **OPTIONS)
    assert [layer.scale is not None for layer in loaded.value.layers] == [True, False, True, False]


def test_rules_do_not_hide_a_gap(tmp_path: Path) -> None:
    """The policy's last hidden layer has no LayerNorm, and a number for one."""

    def dotted(network: str, layer: int, part: str, e: int | None) -> str:
        return odd(network, layer, part, e).replace("-", ".")

    rules = [{**rule, "from": rule["from"].replace("-", ".")} for rule in rules_for_odd()]
    path = put(tmp_path / "a.npz", tensors_of(OURS, dotted, transposed=True, apart=True))
    with pytest.raises(InputError, match=r"the policy: .*between alpha\.6 and alpha\.9"):
        qgf_ref.load(path, rules={"rules": rules}, **OPTIONS)
    same(qgf_ref.load(path, rules={"rules": rules, "gaps": "as ours"}, **OPTIONS), OURS)


def test_a_lost_number_in_an_official_pickle(tmp_path: Path) -> None:
    tree: Any = official_tree(OURS)
    del tree["agent"]["value"]["params"]["value_net"]["LayerNorm_1"]
    (tmp_path / "params_1.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(InputError, match="has no LayerNorm_1, though a later one"):
        qgf_ref.load(tmp_path / "params_1.pkl", **OPTIONS)
    with pytest.raises(InputError, match="Dense_1 is followed by no LayerNorm"):
        qgf_ref.load(tmp_path / "params_1.pkl", rules={}, **OPTIONS)


def in_blocks(network: str, layer: int, part: str, e: int | None) -> str:
    member = "" if e is None else f".{e}"
    return (
        f"{network}{member}.blocks.{layer}.{'norm' if is_norm(part) else 'fc'}.{torch_leaf(part)}"
    )


@pytest.mark.parametrize("first", ["norm", "fc"])
def test_a_norm_that_is_declared_before_its_layer_is_asked_about(
    first: str, tmp_path: Path
) -> None:
    """x + W f(LayerNorm(x)) has the names of x + f(LayerNorm(W x)): their order alone differs."""
    written = list(tensors_of(OURS, in_blocks, transposed=True, apart=True).items())
    blocks = {name: name.split(".fc.")[0].split(".norm.")[0] for name, _ in written}
    places = {block: i for i, block in enumerate(dict.fromkeys(blocks.values()))}
    written.sort(key=lambda x: (places[blocks[x[0]]], f".{first}." not in x[0]))
    path = put(tmp_path / "a.npz", dict(written))
    if first == "fc":
        same(qgf_ref.load(path, **OPTIONS), OURS)
        return
    with pytest.raises(InputError, match=r"norm\.weight is declared before .*fc\.weight.*pre-norm"):
        qgf_ref.load(path, **OPTIONS)
    same(qgf_ref.load(path, rules={"gaps": "as ours"}, **OPTIONS), OURS)


def behind_a_stem(network: str, layer: int, part: str, e: int | None) -> str:
    """A first layer with a LayerNorm behind it, and blocks in which it may stand anywhere."""
    member = "" if e is None else f".{e}"
    module = "norm" if is_norm(part) else "fc"
    place = f"{'inner' if layer == 0 else 'outer'}.{layer}.{module}"
    if layer + 1 == len(SQUARE.params[network].layers):
        place = "head"
    return f"{network}{member}.{place}.{torch_leaf(part)}"


SQUARE = small_checkpoint(hidden=(10, 10, 10))


def in_order(written: Tensors, first: str) -> Tensors:
    """The outer layers' LayerNorm before its layer, or behind it; the inner one's behind."""

    def later(name: str) -> bool:
        return (first if "outer" in name else ".fc.") not in name

    block = {name: name.split(".fc.")[0].split(".norm.")[0] for name in written}
    places = {each: i for i, each in enumerate(dict.fromkeys(block.values()))}
    return dict(sorted(written.items(), key=lambda x: (places[block[x[0]]], later(x[0]))))


def test_blocks_of_one_width_behind_a_stem_are_asked_about(tmp_path: Path) -> None:
    """Widths tell nothing of them; in the order of the alphabet the file tells nothing either."""
    written = tensors_of(SQUARE, behind_a_stem, transposed=True, apart=True)
    stores = {
        "sorted": (dict(sorted(written.items())), "neither names nor widths nor the order"),
        "norm first": (in_order(written, ".norm."), r"norm\.weight is declared before"),
    }
    for name, (tensors, says) in stores.items():
        path = put(tmp_path / f"{name}.npz", tensors)
        with pytest.raises(InputError, match=rf"{says}.*pre-norm.*gaps"):
            qgf_ref.load(path, **OPTIONS)
        same(qgf_ref.load(path, rules={"gaps": "as ours"}, **OPTIONS), SQUARE)
        mapping = load_foreign(path, recognised(path), OPTIONS, {"gaps": "as ours"})[1]
        assert mapping is not None and any("acts behind" in note for note in mapping.notes)
    told = put(tmp_path / "layer first.npz", in_order(written, ".fc."))
    same(qgf_ref.load(told, **OPTIONS), SQUARE)
