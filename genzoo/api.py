"""genzoo from Python: the functions behind `import genzoo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from genzoo import evaluation
from genzoo.building import Blueprint, able_to, load_reference
from genzoo.config import ADAPTER_KEYS, Budget, Reference, TrainSettings
from genzoo.errors import CapabilityError, RunError, UsageError
from genzoo.evaluation import Evaluation
from genzoo.interface import GenerativeModel
from genzoo.noising import ForwardProcess, Noising
from genzoo.records import CellFolder, find_cells
from genzoo.registry import load_registry
from genzoo.safe_build import Allowance, TooLargeError
from genzoo.spec import Dataset, DataSpec
from genzoo.state import header, load_tensors
from genzoo.text import plain
from genzoo.training import Event, Trainer


def load_dataset(name: str | ArrayLike | Tensor, y: ArrayLike | Tensor | None = None, **options: Any) -> Dataset:
    """A registered data set (`"moons"`, `"mnist[labels=true]"`), your own file or folder, or arrays.

    Args:
        name: a name with inline options, a path, or an array `(N, ...)`.
        y: labels of an array.
        options: options of the data set, or `levels`, `labels` of a file.

    Raises:
        UnknownNameError, DataError: saying what is wrong with it.
    """
    if not isinstance(name, (str, Path)):
        from genzoo.data.files import from_arrays  # numpy's readers, only when asked for

        return from_arrays(name, y, **options)
    reference = Reference.parse(str(name), "data set")
    return load_reference(load_registry(), Reference(reference.name, {**reference.options, **options}))


def build_model(name: str, spec: DataSpec, *, seed: int = 0, **options: Any) -> GenerativeModel:
    """A registered model on a data spec, with the adapters that the data needs.

    Args:
        name: `"flow"` or `"flow[layers=8]"`.
        spec: `data.spec`.
        seed: of its first weights; the global RNG is untouched.
        options: config keys, and the adapter keys `dequantization`, `logit`, `standardize`, `class_mixture`.
    """
    reference = Reference.parse(name)
    return Blueprint.of(load_registry(), reference.name, {**reference.options, **options}, spec).build(seed)


def forward_process(name: str, spec: DataSpec, *, plugins: Sequence[str | Path] = (), **options: Any) -> ForwardProcess:
    """How a registered model turns data of `spec` into noise, before any training.

    Args:
        name, options: as in `build_model`; adapters are left out, since it is the data themselves that turn into noise.
        plugins: single-file plugins to load.

    Raises:
        CapabilityError: a model without a forward process; the message names those that have one.
    """
    reference = Reference.parse(name)
    options = {**reference.options, **options}
    if adapters := sorted(options.keys() & set(ADAPTER_KEYS)):
        raise UsageError(f"a forward process acts on the data themselves: leave out {', '.join(adapters)}")
    registry = load_registry(plugins)
    blueprint = Blueprint.of(registry, reference.name, options, spec)
    model = blueprint.card.resolve()
    if not issubclass(model, Noising):
        able = ", ".join(able_to(registry, Noising)) or "none of those installed"
        raise CapabilityError(f"{reference.name} has no forward process from data to noise; models that have: {able}")
    process: ForwardProcess = model.forward_process(spec, blueprint.config)
    return process


class Curve(list[Event]):
    """The training curve: an Event a point. Printed, and in a notebook, it is the points at which the model was
    validated."""

    def __repr__(self) -> str:
        lines = [
            f"step {step}, {seconds} s: loss {loss}, validation NLL {nll}"
            for step, seconds, loss, nll in self._validated()
        ]
        return "\n".join([f"<Curve: {len(self)} points>", *lines])

    def _repr_html_(self) -> str:
        from genzoo.report.notebook import table_html  # here: a curve needs no report
        from genzoo.report.table import Column, Row, Table

        titles = ("step", "seconds", "loss", "validation NLL, nats")
        return table_html(Table(tuple(map(Column, titles)), tuple(map(Row, self._validated()))))

    def _validated(self) -> list[tuple[str, str, str, str]]:
        return [
            (f"{event.step:,}", f"{event.seconds:.3g}", f"{event.loss:.4f}", f"{event.nll:.4f}")
            for event in self
            if event.nll is not None
        ]


def fit(
    model: GenerativeModel,
    data: Dataset,
    budget: str | Budget = "30s",
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    **settings: Any,
) -> Curve:
    """Train in place; ends with the evaluated (averaged, selected) weights.

    Args:
        budget: `2000steps`, `10epochs` or `60s`.
        seed: of batches and noise.
        folder: where checkpoints go; an unfinished training there is continued.
        settings: fields of TrainSettings that override the model's own, such as `learning_rate`.
    """
    defaults = model.default_training().model_dump()
    learner = model.learner(TrainSettings.parse({**defaults, "seed": seed, **settings}, "fit"))
    trainer = Trainer(learner, data, Budget.parse(budget), folder=None if folder is None else Path(folder))
    curve = Curve(trainer.run())
    model.load_state_dict(trainer.finish().state_dict())
    return curve


def evaluate(model: GenerativeModel, data: Dataset, *, num_samples: int = 1, **options: Any) -> Evaluation:
    """Evaluate on the test split: see `genzoo.evaluation.evaluate`.

    Gives `.nll .kind .kl .stderr .stderr_mc .stderr_data .bits_per_dim .terms`.
    """
    return evaluation.evaluate(model, data, num_samples=num_samples, **options)


def find_cell(path: str | Path) -> CellFolder:
    """The one cell at `path`; RunError naming the cells where a run folder holds several."""
    cells = find_cells(Path(path))
    if len(cells) > 1:
        names = ", ".join(cell.path.name for cell in cells[:6])
        raise RunError(f"{path} holds {len(cells)} cells: name one of them, such as {path}/cells/{names}")
    return cells[0]


def load(path: str | Path, plugins: Sequence[str] = ()) -> GenerativeModel:
    """A trained model back from a cell folder (or a run folder of one cell); `plugins` are single-file plugins."""
    return load_cell(find_cell(path), plugins)


def load_cell(cell: CellFolder, plugins: Sequence[str] = ()) -> GenerativeModel:
    """The model of a cell; RunError when it has none, or when its file does not fit its record."""
    record = cell.record
    path = cell.path / "model.safetensors"
    if not path.exists():
        raise RunError(f"{cell.path} holds no model (status {record.status})")
    entries, _ = header(path)
    if not record.event_shape:
        raise RunError(f"{cell.path / 'record.json'} says nothing of the data that its model is for")
    spec = DataSpec(tuple(record.event_shape), record.levels, record.classes)
    try:
        blueprint = Blueprint.from_stored(load_registry(plugins), record.model, record.config, spec)
        with Allowance.of([entry.size for entry in entries.values()]):
            model = blueprint.build(0)
    except TooLargeError:
        raise RunError(f"{path} does not fit its record, which describes a model many times as large") from None
    except UsageError as error:
        file = f"; it came from {record.plugin}: give --plugin again" if record.plugin.endswith(".py") else ""
        raise RunError(f"{cell.path / 'record.json'}: {error}{file}") from error
    except Exception as error:  # a constructor's own, for a config that passed its types
        words = plain(f"{type(error).__name__}: {error}", 200)
        raise RunError(f"{cell.path / 'record.json'} describes a model that cannot be built: {words}") from None
    state, tensors = model.state_dict(), load_tensors(path)
    wrong = [name for name, tensor in tensors.items() if name in state and tensor.dtype != state[name].dtype]
    if wrong:
        given, wanted = tensors[wrong[0]].dtype, state[wrong[0]].dtype
        raise RunError(f"{path} does not fit its record: {plain(wrong[0], 80)} is {given}; expected {wanted}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        words = plain(" ".join(str(error).split()), 300)
        raise RunError(f"{path} does not fit its record: {words}") from None
    return model.eval()


def cell_dataset(cell: CellFolder, plugins: Sequence[str] = ()) -> Dataset:
    """The data set of a cell; RunError when what is found now is not what the cell was trained on."""
    data = load_reference(load_registry(plugins), Reference.parse(cell.record.dataset, "data set"))
    stored = cell.record.protocol.get("data_hash"), cell.record.protocol.get("test_hash")
    if stored != (data.protocol.data_hash, data.protocol.test_hash):
        raise RunError(f"data set {cell.record.dataset} has changed since {cell.path} was made: its hash differs")
    return data
