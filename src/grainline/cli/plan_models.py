"""`grainline plan models`: architectures that can be planned for by name."""

from __future__ import annotations

import json as json_module


def run(name: str | None = None, /, *, json: bool = False) -> int:
    """List public architectures by name; with a name, its config. No weights are needed to plan for one.

      grainline plan models
      grainline plan models Ling-1T > ling.toml

    Args:
        name: one of them; its case and dashes don't matter
        json: print one JSON value
    """
    from grainline._report import Report, Section, Table, show
    from grainline._words import count
    from grainline.models.catalogue import models
    from grainline.models.count import parameters

    if name is not None:
        config = models().get(name).config
        if json:
            print(json_module.dumps(config.tables(), indent=2))
        else:
            import tomli_w

            print(tomli_w.dumps(config.tables()), end="")
        return 0
    listed = models().models
    if json:
        print(json_module.dumps([model.model_dump(mode="json", exclude_none=True) for model in listed], indent=2))
        return 0
    rows = []
    for model in listed:
        moe, size = model.config.moe, parameters(model.config)
        experts = f"{moe.top_k} of {moe.experts}" if moe else ""
        kind = model.config.attention.kind.upper()
        rows.append((model.name, count(size.total), count(size.active), str(model.config.layers), kind, experts))
    columns = ("model", "parameters", "active", "layers", "attention", "experts")
    table = Table(columns, tuple(rows), left=("attention",))
    notes = [f"{model.name}: {model.note}." for model in listed if model.note]
    lead = f"{len(listed)} architectures. Any config.json, hub id or model config can be planned for as well."
    show(Report("Models", lead, (Section("By name", notes, table),)))
    return 0
