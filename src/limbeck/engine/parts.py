"""How is a part of a recipe set going, and from where in the data?"""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.engine.apart import Branches
from limbeck.engine.folder import Folder
from limbeck.engine.loop import Loop, rewind
from limbeck.engine.setting import Fabric, Setting
from limbeck.engine.workshop import Workshop
from limbeck.recipe import Apart, Stage, Together
from limbeck.sources import Source


def set_going(
    part: Stage | Together | Apart,
    key: str,
    models: Workshop,
    source: Source,
    setting: Setting,
    *,
    fabric: Fabric,
    folder: Folder,
    only: bool,
    begun: bool,
) -> Loop | Branches:
    """What runs a part of a recipe, ready to be called.

    Args:
        part: A stage, several on one batch, or branches.
        key: Where it stands in the recipe.
        models: The run's models.
        source: The run's source.
        setting: What the run holds fixed.
        fabric: Device, precision, strategy.
        folder: The run's folder.
        only: Whether the recipe has no other part, so that reports need not say which it is.
        begun: Whether it was left in its midst, so that its source stands where it should.
    """
    if isinstance(part, Apart):
        return Branches(part, key, models, source, setting, fabric=fabric, folder=folder)
    stages = part.stages if isinstance(part, Together) else (part,)
    if not begun:
        _start_epoch(stages, source)
    name = " & ".join(stage.name or stage.trains for stage in stages)
    return Loop(stages, models, source=source, setting=setting, fabric=fabric, name=name if only else f"{key} {name}")


def _start_epoch(stages: Sequence[Stage], run_source: Source) -> None:
    """A new stage begins with a whole epoch: the run's next, or the first of a source of its own."""
    source = stages[0].source or run_source
    if not source.resumable:
        return
    position = source.state_dict()
    if source is not run_source:
        rewind(source, 0)
    elif position["batch"]:
        rewind(source, position["epoch"] + 1)
