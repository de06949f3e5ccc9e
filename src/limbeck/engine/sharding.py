"""How do weights that are spread over several devices come back together?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.engine.setting import Fabric
from limbeck.errors import LimbeckError
from limbeck.recipe import Stage
from limbeck.teachers import Named

_STUDENT, _HEADS = "tapped.model.", "objective."


def is_sharded(fabric: Fabric) -> bool:
    """Whether the strategy spreads one model's parameters over devices (FSDP, or Fabric's model-parallel strategy)."""
    from lightning_fabric.strategies import FSDPStrategy, ModelParallelStrategy

    return isinstance(fabric.strategy, (FSDPStrategy, ModelParallelStrategy))


def twin(model: nn.Module, stage: Stage) -> nn.Module:
    """A copy of the student to be spread; the run's own stays whole, and is brought up to date at every report.

    Raises:
        LimbeckError: If the stage's teacher follows the student while it learns: it would see the whole copy, which
            lags behind.
    """
    teacher = stage.teacher
    if teacher is not None and (teacher.changes or (isinstance(teacher, Named) and teacher.name == stage.trains)):
        raise LimbeckError(
            f"{type(teacher).__name__} follows a model while it learns, and a sharded strategy has that model in "
            "pieces. Use strategy='ddp' for this method."
        )
    return copy.deepcopy(model)


def whole_state(pupil: Any, optimiser: Any) -> dict[str, Any]:
    """The student's, the heads' and the optimiser's whole state, on every rank, which must all ask at the same time."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    wanted = StateDictOptions(full_state_dict=True)
    module, plain = pupil._forward_module, optimiser.optimizer
    tensors = get_model_state_dict(module, options=wanted)
    return {
        "student": _under(_STUDENT, tensors),
        "heads": _under(_HEADS, tensors),
        "optimiser": get_optimizer_state_dict(module, plain, options=wanted),
    }


def load_whole_state(pupil: Any, optimiser: Any, state: Mapping[str, Any]) -> None:
    """Spread a whole state over the ranks again; every rank holds it when it asks."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    given = StateDictOptions(full_state_dict=True)
    module, plain = pupil._forward_module, optimiser.optimizer
    tensors = {
        **{_STUDENT + name: value for name, value in state["student"].items()},
        **{_HEADS + name: value for name, value in state["heads"].items()},
    }
    set_model_state_dict(module, tensors, options=given)
    set_optimizer_state_dict(module, plain, state["optimiser"], options=given)


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
