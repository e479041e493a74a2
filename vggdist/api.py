"""The Python API of ``import vggdist`` (docs/python.md)."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vggdist.collectives import initialization
from vggdist.config.errors import before_start
from vggdist.config.inference import InferenceConfig, place
from vggdist.config.load import checked, run_directory
from vggdist.config.schema import Config, WorldConfig
from vggdist.environment import variables
from vggdist.exit_handling import ExitHandler
from vggdist.processes.signals import StopRequests
from vggdist.reporting.console import start_logging

if TYPE_CHECKING:
    from vggdist.data.dataset import DataSet
    from vggdist.data.in_memory import InputData
    from vggdist.inference.classifier import Classifier
    from vggdist.reporting.report import OnReport

logger = logging.getLogger(__name__)

_MXNET_IMPORTED_BEFORE = "mxnet" in sys.modules


def train(config: Config, data: InputData | None = None, on_report: OnReport | None = None) -> dict[str, Any]:
    """Train a network, or continue a run; returns the contents of ``result.json``.

    A program that a launcher starts (``horovodrun -np 4 python program.py``) must call it on every rank. If it is called in
    the main thread, signals stop the training as they stop the command.

    Args:
        config: as in a configuration file.
        data: images to train on instead of the data set ``config.data.name``: one part, of which a share is held out, or parts
            by name, ``train``, ``test`` and optionally ``validation``. A part is a pair of arrays, ``(N, H, W, C)`` or
            ``(N, H, W) uint8`` images and ``(N,)`` labels from 0 on, or a :class:`~vggdist.data.arrays.Source`. They are
            normalised by their own mean and deviation (``augment.normalize computed``) unless that is ``none`` or ``raw``.
        on_report: called on rank 0 with step, epoch and metrics of each report and evaluation.

    Raises:
        RequestError: the configuration, data or checkpoint is invalid.
        RunError: the training failed.
        Stopped: the training was stopped on request and has saved a checkpoint, from which the same call continues.
    """
    handler, started = ExitHandler(), time.monotonic()
    stop = StopRequests(handler.rank, handler.size, handler.stop_before_first_step)
    in_main_thread = threading.current_thread() is threading.main_thread()

    def command() -> dict[str, Any]:
        start_logging(handler.rank)
        if _MXNET_IMPORTED_BEFORE:
            logger.warning("mxnet was imported before vggdist: the settings of MXNet's threads and memory have no effect")
        with before_start():
            valid = checked(_for_given_images(config) if data is not None else config)
        if data is None:
            return run_training(valid, handler, stop, started, on_report=on_report)
        from vggdist.data.in_memory import data_set

        return run_training(valid, handler, stop, started, lambda: data_set(data, valid.data, valid.run.seed), on_report)

    with stop if in_main_thread else nullcontext():
        return handler.call(command)


def load_model(run: str | os.PathLike[str], checkpoint: str | int = "best", device: str = "auto") -> Classifier:
    """Load a trained network for the classification of images.

    Args:
        run: folder of a run, or of one checkpoint.
        checkpoint: of the run: ``"best"``, ``"latest"``, a step such as 450, or the folder of a checkpoint.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.

    Raises:
        RequestError: there is no such checkpoint, or it is damaged.
    """
    where = place(os.fspath(run), str(checkpoint))
    if "mxnet" not in sys.modules:
        variables.apply(InferenceConfig(world=WorldConfig(bind=False)))
    from vggdist.checkpoints.trained import read
    from vggdist.collectives.world import choose_device
    from vggdist.inference.classifier import Classifier

    return Classifier(read(where), choose_device(device, local_rank=0))


def _for_given_images(config: Config) -> Config:
    """The configuration for images of the caller, which have no published mean and deviation."""
    normalize = "computed" if config.augment.normalize == "published" else config.augment.normalize
    return replace(config, data=replace(config.data, name="given"), augment=replace(config.augment, normalize=normalize))


def run_training(
    config: Config,
    handler: ExitHandler,
    stop: StopRequests,
    started: float,
    load: Callable[[], DataSet] | None = None,
    on_report: OnReport | None = None,
) -> dict[str, Any]:
    """Train with a valid configuration, for the command and the API; returns the contents of ``result.json``.

    Args:
        started: start time, in seconds of ``time.monotonic``.
        load: makes the data set, instead of ``config.data.name``; called on every rank.
    """
    with before_start():
        handler.can_continue = lambda: continues(config)
        settings = variables.apply(config)  # before anything imports MXNet
    initialization.announce()
    from vggdist.collectives.world import World
    from vggdist.elastic.generations import run_elastic
    from vggdist.training.run import Run

    world = World()
    run = Run(config, settings, stop, handler, started, on_report)
    if load is not None:
        run.elastic_state.data = world.together(load)
    return run_elastic(run.on, world, run.elastic_state, handler.close_watchdog) if config.run.elastic else run.on(world)


def continues(config: Config) -> bool:
    """Whether the run would continue from an existing checkpoint."""
    from vggdist.checkpoints.store import CheckpointStore  # imports numpy, which reads the variables that apply() sets

    return config.run.resume == "auto" and bool(CheckpointStore(run_directory(config) / "checkpoints").complete_steps())
