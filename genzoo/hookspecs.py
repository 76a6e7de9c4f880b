"""The three hooks through which models, data sets and metrics come in.

A plugin is a module, named by one entry point of the group `genzoo`, that implements any of these:

    from genzoo.cards import ModelCard
    from genzoo.hookspecs import hookimpl

    @hookimpl
    def genzoo_models() -> list[ModelCard]:
        return [ModelCard(name="mine", summary="...", family="...", target="genzoo_mine.model:Mine")]

Hooks take no arguments, import no torch and print nothing.
"""

from __future__ import annotations

from pluggy import HookimplMarker, HookspecMarker

from genzoo.cards import DatasetCard, MetricCard, ModelCard

GROUP = "genzoo"
hookspec = HookspecMarker(GROUP)
hookimpl = HookimplMarker(GROUP)


@hookspec
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return []


@hookspec
def genzoo_datasets() -> list[DatasetCard]:
    """The data sets that this plugin brings."""
    return []


@hookspec
def genzoo_metrics() -> list[MetricCard]:
    """The sample metrics that this plugin brings."""
    return []
