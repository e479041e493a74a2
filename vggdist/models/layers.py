"""The VGG family as arithmetic: shapes, parameters, FLOPs and bytes of every block, without MXNet.

The network itself (:mod:`vggdist.models.vgg`) is built from the rows that :func:`describe` returns, so the
numbers here are those of the trained network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig

NETWORK_PREFIX = "vgg_"
"""Prefix of the names of all parameters."""
OUTPUT_WEIGHT = f"{NETWORK_PREFIX}output_weight"
NORM_EPSILON = 1e-5
"""Constant that batch normalisation adds to the variance, as in Gluon and torchvision."""
ONEDNN_BLOCK = 16
"""Channels in a block of oneDNN's memory format for AVX-512."""
_WIDTHS = (64, 128, 256, 512, 512)

STAGES: dict[str, tuple[tuple[int, int], ...]] = {
    "vgg11": tuple(zip((1, 1, 2, 2, 2), _WIDTHS)),
    "vgg13": tuple(zip((2, 2, 2, 2, 2), _WIDTHS)),
    "vgg16": tuple(zip((2, 2, 3, 3, 3), _WIDTHS)),
    "vgg19": tuple(zip((2, 2, 4, 4, 4), _WIDTHS)),
}
"""(convolutions, channels) of each stage: columns A, B, D and E of Simonyan & Zisserman (2015), Table 1."""


@dataclass(frozen=True)
class Layer:
    """One row of the network: a convolution with its normalisation and activation, a pooling, the head or a dense layer."""

    name: str
    """``stage1.conv2``, ``stage3.pool``, ``head``, ``hidden1``, ``output``."""
    kind: Literal["convolution", "pool", "head", "dense"]
    output_shape: tuple[int, ...]
    """Shape for one sample: ``(C, H, W)``, and ``(units,)`` from the head on."""
    parameters: int = 0
    """Numbers, without the running statistics of a batch normalisation."""
    fixed: int = 0
    """Numbers of these that are not trained: the weights of a convolution that whitens."""
    flops: int = 0
    """Operations of one sample's forward pass. A multiply-add is 2 FLOPs; biases, normalisation, activation and pooling,
    together below a few per cent, are not counted."""
    frozen: bool = False
    """Whether it is part of a frozen stage (model.freeze), which has no backward pass."""
    unpooled: tuple[int, int, int] | None = None
    """Output shape ``(C, H, W)`` of a convolution whose row contains the pooling (model.early_pooling); else None."""
    normalised: bool = False
    """Whether batch normalisation follows the convolution, which then has no bias."""

    @property
    def convolved(self) -> tuple[int, ...]:
        """Output shape of the row's convolution, before any pooling."""
        return self.unpooled or self.output_shape

    @property
    def trained(self) -> int:
        """Numbers that have a gradient."""
        return 0 if self.frozen else self.parameters - self.fixed

    @property
    def prefix(self) -> str:
        """Prefix of the names of its parameters, after that of the network."""
        return self.name.replace(".", "_") + "_"


def resolve_stages(model: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Channels of each convolution, by stage, after the width divisor.

    Raises:
        RequestError: model.width_divisor leaves a stage without a channel, or model.freeze is more than all stages.
    """
    stages = model.stages or STAGES.get(model.name, ())
    table = model.widths or tuple((channels,) * convolutions for convolutions, channels in stages)
    if model.freeze > len(table):
        raise RequestError(f"model.freeze is {model.freeze}, and the network has {len(table)} stages")
    narrowest = min(map(min, table))
    if model.width_divisor > narrowest:
        raise RequestError(
            f"model.width_divisor is {model.width_divisor}, which leaves no channel in a stage of {narrowest}; "
            f"use at most {narrowest}"
        )
    return tuple(tuple(channels // model.width_divisor for channels in widths) for widths in table)


def smallest_image_size(model: ModelConfig) -> int:
    """Side in pixels of the smallest image that leaves one pixel after the last pooling."""
    size, stages = 1, resolve_stages(model)
    for stage in range(len(stages), 0, -1):
        pooled = 2 * size if _pools(model, stage, len(stages)) else size
        size = pooled + (0 if model.padding else 2 * len(stages[stage - 1]))
    return size


def _pools(model: ModelConfig, stage: int, stages: int) -> bool:
    """Whether a stage ends with a pooling; the stages are counted from 1."""
    return stage < stages or model.head != "global_max"  # its maximum includes that of the last pooling


def describe(model: ModelConfig, *, channels: int, image_size: int, num_classes: int) -> list[Layer]:
    """The network's rows from the image to the class scores.

    Args:
        channels: channels of the image.
        image_size: side of the square image in pixels.
        num_classes: class scores per sample.

    Raises:
        RequestError: a convolution or a pooling would leave no pixel (the message names the block, the size of its input
            and the remedies), or a stage would have no channel.
    """
    rows: list[Layer] = []
    shape: tuple[int, ...] = (channels, image_size, image_size)
    for row in _features(model, (channels, image_size, image_size)):
        rows.append(row)
        shape = row.output_shape
    units = shape[0] * shape[1] * shape[2] if model.head == "flatten" else shape[0]
    rows.append(Layer("head", "head", (units,)))
    names = [f"hidden{index}" for index in range(1, len(model.hidden) + 1)]
    for name, width in zip([*names, "output"], [*model.hidden, num_classes]):
        rows.append(Layer(name, "dense", (width,), parameters=(units + 1) * width, flops=2 * units * width))
        units = width
    return rows


def parameter_shapes(layers: Sequence[Layer], channels: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of each parameter, by the name of its row and its role there (``weight``, ``norm_running_mean``).

    Args:
        layers: the result of :func:`describe`.
        channels: of the image.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    inputs = channels
    for layer in layers:
        outputs = layer.output_shape[0]
        if layer.kind == "convolution":
            rest = ("norm_gamma", "norm_beta", "norm_running_mean", "norm_running_var") if layer.normalised else ("bias",)
            shapes[layer.name] = {"weight": (outputs, inputs, 3, 3), **{role: (outputs,) for role in rest}}
        elif layer.kind == "dense":
            shapes[layer.name] = {"weight": (outputs, inputs), "bias": (outputs,)}
        inputs = outputs
    return shapes


def suits_matrix(model: ModelConfig, inputs: int, output_shape: tuple[int, ...], samples: int) -> bool:
    """Whether a convolution is faster on oneDNN as a :class:`~vggdist.models.convolution.MatrixConv2D`.

    With few samples or few channels it is not; docs/performance.md has figures.

    Args:
        inputs: input channels.
        output_shape: ``(C, H, W)``.
        samples: in one forward pass of the training.
    """
    channels, size, _ = output_shape
    return bool(model.padding) and size == 2 and inputs * channels >= 256 * 256 and samples >= 64


def _features(model: ModelConfig, shape: tuple[int, int, int]) -> Iterator[Layer]:
    """Convolutions and poolings; ``shape`` is the image's ``(C, H, W)``."""
    channels, size, _ = shape
    stages = resolve_stages(model)
    for stage, widths in enumerate(stages, start=1):
        frozen, pools = stage <= model.freeze, _pools(model, stage, len(stages))
        for index, width in enumerate(widths, start=1):
            name = f"stage{stage}.conv{index}"
            size = _remaining(model, name, size, size if model.padding else size - 2)
            weights = 9 * channels * width
            whitens = model.whitening and stage == index == 1
            fixed, normalised = weights if whitens else 0, model.batch_norm and not whitens
            # One bias per channel, or gamma and beta of batch normalisation.
            parameters = weights + (2 if normalised else 1) * width
            flops, unpooled = 2 * weights * size * size, None
            if pools and model.early_pooling and index == len(widths):
                unpooled, size = (width, size, size), _remaining(model, name, size, size // 2)
            yield Layer(name, "convolution", (width, size, size), parameters, fixed, flops, frozen, unpooled, normalised)
            channels = width
        if pools and not model.early_pooling:
            name = f"stage{stage}.pool"
            size = _remaining(model, name, size, size // 2)
            yield Layer(name, "pool", (channels, size, size), frozen=frozen)


def _remaining(model: ModelConfig, name: str, size: int, left: int) -> int:
    """The ``left`` pixels of a side after a block; ``RequestError`` if there are none."""
    if left > 0:
        return left
    padding = "" if model.padding else "model.padding 1, "
    raise RequestError(
        f"model: {name} gets {size}x{size} pixels and would leave none; use a larger data.image_size "
        f"(at least {smallest_image_size(model)}), {padding}or fewer stages (model.name custom and model.stages)"
    )


def summary_table(layers: list[Layer], sent: Mapping[str, Callable[[Layer], float]]) -> str:
    """The rows as aligned text, with totals.

    Args:
        sent: title -> bytes that a rank sends for a layer in a step, one column each.

    Returns:
        Columns block, output shape, parameters, MFLOPs of one sample's forward pass (a multiply-add is 2 FLOPs) and the
        bytes sent.
    """
    cells = [("block", "output", "parameters", "MFLOPs", *sent)]
    for row in layers:
        shape = " x ".join(map(str, row.output_shape))
        name = f"{row.name} (frozen)" if row.frozen else row.name
        cells.append((name, shape, *_figures([row], sent)))
    cells.append(("total", "", *_figures(layers, sent)))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [_aligned(row, widths) for row in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _figures(layers: Sequence[Layer], sent: Mapping[str, Callable[[Layer], float]]) -> list[str]:
    """Parameters, MFLOPs and bytes of layers together."""
    parameters, flops = (sum(getattr(layer, name) for layer in layers) for name in ("parameters", "flops"))
    bytes_sent = [round(sum(map(of_layer, layers))) for of_layer in sent.values()]
    return [f"{parameters:,}", f"{flops / 1e6:,.2f}", *map(readable_bytes, bytes_sent)]


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Text to the left, figures to the right."""
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
    right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:])]
    return "  ".join(left + right)


def readable_bytes(count: int) -> str:
    """``7.04 MiB`` for 7,380,000 bytes."""
    power = min(max(count.bit_length() - 1, 0) // 10, 3)
    unit = ("B", "KiB", "MiB", "GiB")[power]
    return f"{count:,} B" if power == 0 else f"{count / 1024**power:,.2f} {unit}"
