"""Distributed training of VGG image classifiers with Horovod and MXNet.

The API (docs/python.md) is imported on first use: MXNet reads the environment when it is imported, and :func:`train` and
:func:`load_model` set it first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggdist.api import load_model, train
    from vggdist.config.errors import RequestError, RunError, Stopped, VggdistError
    from vggdist.config.schema import (
        AugmentConfig,
        CheckpointConfig,
        Config,
        DataConfig,
        EvaluationConfig,
        ModelConfig,
        OptimizerConfig,
        RunConfig,
        ScheduleConfig,
        TrainConfig,
        WorldConfig,
    )

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RequestError",
    "RunConfig",
    "RunError",
    "ScheduleConfig",
    "Stopped",
    "TrainConfig",
    "VggdistError",
    "WorldConfig",
    "load_model",
    "train",
]
__version__ = "0.1.0"

_MODULES = ("vggdist.config.errors", "vggdist.config.schema", "vggdist.api")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(importlib.import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
