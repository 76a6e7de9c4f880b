"""Published values and floors as data: what each row must say, and that units and derivations hold."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest

from genzoo import references
from genzoo.errors import ConfigError, UnknownNameError
from genzoo.references import TAGS, Published, Value, in_nats, published
from genzoo.safe_toml import parse_toml

FOLDER = Path(references.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))
ROW = {"model": "a", "family": "flow", "value": 1.89, "kind": "bound", "tag": "V"}
FILE = {"dataset": "mnist", "unit": "bits/dim", "dims": 784, "differs": ["in size"], "rows": [ROW]}
BIT_PER_DIM = 784 * math.log(2)


def test_every_file_is_of_the_data_set_it_is_named_after() -> None:
    assert FILES == ["mnist", "mnist_binary", "mnist_binary_static"]
    for name in FILES:
        found = published(name)
        assert found is not None
        assert found.dataset == name
        values = [row.value for row in found.rows]
        assert len(values) > 30
        assert values == sorted(values)
    assert published("moons") is None
    assert published("../mnist") is None


@pytest.mark.parametrize("name", FILES)
def test_tags_are_known_and_what_is_recalled_is_not_checked(name: str) -> None:
    found = published(name)
    assert found is not None
    for row in found.rows:
        assert row.tag in TAGS
        assert row.checked == (row.tag in ("V", "V2", "C") or (row.tag == "D" and row.origin in ("V", "V2")))
    tags = {row.tag for row in found.rows}
    assert {"V", "V2", "R"} <= tags
    # nothing that was only recalled can be taken for a record: each file's best checked value is known
    best = {"mnist": 0.621, "mnist_binary": 78.01, "mnist_binary_static": 79.02}
    assert min(row.value for row in found.rows if row.checked) == best[name]


def test_static_and_dynamic_rows_are_never_in_one_file() -> None:
    for name, other in (("mnist_binary", "static"), ("mnist_binary_static", "dynamic")):
        found = published(name)
        assert found is not None
        assert not any(other in " ".join((row.model, row.how, row.note)).lower() for row in found.rows)
        assert any(other in sentence.lower() for sentence in found.differs)  # and a reader is told


@pytest.mark.parametrize(("bits", "nats", "digits"), [(0.809, 439.6, 0.05), (0.621, 337.5, 0.05), (1.0, 543.427, 1e-3)])
def test_a_bit_a_dimension_in_nats(bits: float, nats: float, digits: float) -> None:
    """The pairs that papers quote in both units; the tolerance is the last digit quoted."""
    assert in_nats(bits, "bits/dim", 784) == pytest.approx(nats, abs=digits)
    assert in_nats(nats, "nats", 784) == nats


def test_the_derived_values_follow_from_nats_in_logit_space() -> None:
    found = published("mnist")
    assert found is not None
    derived = [row for row in found.rows if row.logit_nats is not None]
    assert len(derived) == 11
    for row in derived:
        assert row.logit_nats is not None
        assert (-row.logit_nats - 273) / BIT_PER_DIM == pytest.approx(row.value, abs=0.005)
    # the constant is the MAF paper's own pair of numbers
    (maf,) = (row for row in derived if row.model == "MAF, 5 layers")
    assert (maf.logit_nats, maf.value, maf.tag) == (-1300.5, 1.89, "V2")


def changed(**values: Any) -> dict[str, Any]:
    """The file with fields of itself or, for those of a row, of its row changed; None takes a field away."""
    document = copy.deepcopy(FILE)
    for key, value in values.items():
        place: Any = document if key in document else document["rows"][0]  # type: ignore[index]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return document


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tag": "X"}, "tag"),
        ({"tag": None}, "tag"),
        ({"kind": "weights"}, "kind"),
        ({"value": -1.0}, "value"),
        ({"value": math.inf}, "value"),
        ({"unit": "bits"}, "unit"),
        ({"differs": []}, "differs"),
        ({"tag": "D"}, "needs the tag of its origin"),
        ({"origin": "V"}, "needs the tag of its origin"),
        ({"tag": "D", "origin": "V2"}, "needs what it was derived from"),
        ({"logit_nats": -1250.0}, r"are 1\.798 bits/dim; got 1\.89"),
        ({"rows": [ROW, ROW]}, "stands twice"),
        ({"dims": 1024, "rows": [{**ROW, "logit_nats": -1300.5}]}, "over 784 dimensions alone"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused(values: dict[str, Any], words: str) -> None:
    assert Published.parse(FILE, "file").rows[0].value == 1.89
    with pytest.raises(ConfigError, match=words):
        Published.parse(changed(**values), "file")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean dataset"):
        Published.parse({**FILE, "data_set": "mnist"}, "file")
    with pytest.raises(ConfigError, match="estimator"):
        Published.parse(changed(rows=[{**ROW, "estimator": "IWAE"}]), "file")


@pytest.mark.parametrize("name", FILES)
def test_every_row_says_what_kind_its_number_is(name: str) -> None:
    """An ELBO, an importance-weighted value or a code length is a bound, annealing an estimate, and no row both."""
    rows = [Value.parse(row, name) for row in parse_toml((FOLDER / f"{name}.toml").read_text())["rows"]]
    for row in rows:
        if re.search(r"ELBO|IWAE|code length|uniform noise|bound of", row.how):
            assert row.kind == "bound", row
        if "AIS" in row.how:
            assert row.kind == "estimate", row
        if row.kind == "estimate":
            assert row.how, row


def test_floors_are_of_the_data_sets_that_come_with_genzoo() -> None:
    every = list(references._floors().values())
    assert sorted(each.dataset for each in every) == ["digits", "mnist", "mnist_binary", "mnist_binary_static"]
    for each in every:
        assert references.floors(each.data_hash, each.test_hash) is each
        sides = {floor.name: floor.side for floor in each.floors}
        assert {"independent pixels", "gaussian", "bz2", "xz", "png"} <= sides.keys()
        assert ("entropy of the binarisation" in sides) == ("binary" in each.dataset)
        floor = max((f.nats for f in each.floors if f.side == "floor"), default=0.0)
        assert all(f.nats > floor for f in each.floors if f.side == "ceiling")
    assert references.floors(None, None) is None
    assert references.floors(every[0].data_hash, every[1].test_hash) is None
