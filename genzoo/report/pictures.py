"""The pictures of a section: density maps and samples of the plane, sheets of images, a panel a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.report import figures
from genzoo.report.collect import Group, Standing
from genzoo.report.figures import Array, Image
from genzoo.report.numbers import divergence
from genzoo.report.ratio import REACH, ratio_map
from genzoo.text import plain


@dataclass(frozen=True)
class Panel:
    """One model's pictures, or the truth's: a density map, samples and the map of log p - log q. `model`: its label."""

    title: str
    caption: str
    density: Image | None
    samples: Image | None
    ratio: Image | None = None
    model: str = ""


@dataclass(frozen=True)
class Pictures:
    """Panels on one colour scale, whose top is `top` (a density), drawn pixel by pixel if `pixelated`.

    `reach`: nats at the ends of the scale of ratios, where there is one.
    """

    panels: list[Panel]
    top: str = ""
    reach: str = ""
    pixelated: bool = False


def pictures(group: Group, drawn: Sequence[Standing]) -> Pictures | None:
    """Those of the models `drawn`, and of the data; None where no model has any."""
    return _planes(group, drawn) if group.first_record.event_shape == [2] else _images(group, drawn)


def _planes(group: Group, drawn: Sequence[Standing]) -> Pictures | None:
    arrays = [standing.entries[0].arrays for standing in drawn]
    truth = next((held["grid_truth"] for held in arrays if "grid_truth" in held), None)
    reference = next((held["reference"] for held in arrays if "reference" in held), None)
    grids = next((held for held in arrays if {"grid_x", "grid_y"} <= held.keys()), {})
    window = figures.extent(grids.get("grid_x"), grids.get("grid_y"), reference)
    top = figures.density_scale(truth)
    name = plain(group.dataset)
    first = Panel(
        "truth",
        "density and test points",
        figures.density_map(truth, top, f"density of the truth of {name}"),
        figures.scatter(reference, window, f"test points of {name}"),
    )
    panels = [first, *(_plane(standing, name, window, top, truth) for standing in drawn)]
    shown = [panel for panel in panels if panel.density or panel.samples]
    if not shown:
        return None
    reach = f"{REACH:g}" if any(panel.ratio for panel in shown) else ""
    return Pictures(shown, f"{top:.3g}" if top else "", reach)


def _plane(
    standing: Standing, name: str, window: figures.Extent | None, top: float | None, truth: Array | None
) -> Panel:
    held, record = standing.entries[0].arrays, standing.entries[0].record
    label = plain(standing.label, 80)
    sort = "density" if record.kind == "exact" else "bound on the density"
    density = figures.density_map(held.get("grid_model"), top, f"{sort} of {label} on {name}")
    samples = figures.scatter(held.get("samples"), window, f"samples of {label} on {name}")
    caption = sort if density else "samples"
    if record.kl is not None:
        caption += f"; KL {divergence(record)} nats"
    ratio = ratio_map(truth, held.get("grid_model"), f"log p - log q of {label} on {name}, where red it has too little")
    return Panel(label, caption + _seed(standing), density, samples, ratio, label)


def _images(group: Group, drawn: Sequence[Standing]) -> Pictures | None:
    arrays = [standing.entries[0].arrays for standing in drawn]
    levels, name = group.first_record.levels, plain(group.dataset)
    reference = next((held["reference"] for held in arrays if "reference" in held), None)
    span = None if reference is None or levels else figures.value_span(reference)
    budget = max(figures.SHEET, figures.SHEETS // (len(drawn) + 1))  # so that a page of many models stays small
    sheets = [("test data", "", figures.tiles(reference, levels, f"test images of {name}", span, budget=budget))]
    for standing, held in zip(drawn, arrays, strict=True):
        label = plain(standing.label, 80)
        sheet = figures.tiles(held.get("samples"), levels, f"samples of {label} on {name}", span, budget=budget)
        sheets.append((label, f"samples{_seed(standing)}", sheet))
    panels = [
        Panel(title, caption, None, sheet, model=title if caption else "") for title, caption, sheet in sheets if sheet
    ]
    return Pictures(panels, pixelated=True) if panels else None


def _seed(standing: Standing) -> str:
    return f"; seed {standing.entries[0].record.seed}" if len(standing.entries) > 1 else ""
