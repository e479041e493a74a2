"""Suggestions for unknown keys."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# Names of the same options in torchvision, timm, Keras, Lightning and Gluon's scripts.
_ALIASES = {
    "optimizer.learning_rate": ("lr", "base_lr", "max_lr", "rate", "eta", "learning_rate"),
    "optimizer.weight_decay": ("wd", "decay", "l2", "weight_decay"),
    "optimizer.clip_norm": ("clip", "clip_grad", "grad_clip", "max_grad_norm", "gradient_clip_val"),
    "optimizer.name": ("opt", "optim"),
    "schedule.name": ("scheduler", "lr_scheduler", "lr_schedule", "sched"),
    "schedule.warmup_epochs": ("warmup",),
    "train.batch_size": ("bs", "batch", "batchsize", "batch_size_per_gpu"),
    "train.global_batch_size": ("global_batch", "total_batch_size"),
    "train.epochs": ("epoch", "num_epochs", "max_epochs", "n_epochs"),
    "train.steps": ("max_steps", "num_steps", "iterations", "iters", "max_iter"),
    "train.accumulation": ("accumulate", "grad_accum", "accumulate_grad_batches", "gradient_accumulation_steps"),
    "train.precision": ("amp", "fp16", "bf16", "dtype"),
    "train.label_smoothing": ("smoothing",),
    "model.name": ("arch", "network", "architecture", "backbone"),
    "model.pretrained": ("weights", "init", "finetune"),
    "model.batch_norm": ("bn", "batchnorm"),
    "data.name": ("dataset",),
    "data.root": ("data_dir", "data_path", "datadir", "path", "folder"),
    "data.threads": ("workers", "num_workers", "j"),
    "data.image_size": ("img_size", "imgsz", "size", "resolution", "crop_size"),
    "augment.flip": ("hflip", "horizontal_flip", "mirror"),
    "run.name": ("name", "experiment", "exp_name", "run_name", "job_name"),
    "run.directory": ("output", "output_dir", "out", "outdir", "save_dir", "logdir", "log_dir", "dir"),
    "run.log_every": ("log_interval", "print_freq", "log_freq"),
    "run.device": ("gpu", "gpus", "ctx", "accelerator"),
    "run.seed": ("random_seed", "manual_seed"),
    "evaluation.every_epochs": ("eval_every", "eval_interval", "val_interval"),
    "checkpoint.every_epochs": ("save_every", "save_freq", "save_interval"),
}
_KEYS = {alias: key for key, aliases in _ALIASES.items() for alias in aliases}
_CLOSE = 0.8


def closest(word: str, known: Sequence[str]) -> str | None:
    """The most similar known word; None if none is close."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=_CLOSE)), None)


def suggested_key(key: str, known: Sequence[str]) -> str | None:
    """The known key that most likely corresponds to ``key``: an alias, another section or a typing error."""
    section, _, name = key.replace("-", "_").rpartition(".")
    alias = _KEYS.get(name.lower())
    names: dict[str, str] = {}
    for other in known:
        names.setdefault(other.rpartition(".")[2], other)
    similar = closest(name, list(names))
    in_section = [other for other in known if other.startswith(f"{section}.")]
    candidates = (
        alias if alias in known else None,
        names.get(name),
        closest(f"{section}.{name}", in_section or list(known)),
        names[similar] if similar else None,
    )
    return next((candidate for candidate in candidates if candidate is not None), None)
