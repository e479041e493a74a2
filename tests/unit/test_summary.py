"""The summary prints the configured network without reading data."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vggdist.config.schema import ModelConfig
from vggdist.models.layers import describe
from vggdist.summary import main


@pytest.mark.parametrize(("name", "parameters"), [("vgg11", 132_863_336), ("vgg16", 138_357_544), ("vgg19", 143_667_240)])
def test_the_published_networks_have_their_published_parameters(
    capsys: pytest.CaptureFixture[str], name: str, parameters: int
) -> None:
    assert main(["--model.name", name, "--data.name", "folder"]) == 0
    assert f"{parameters:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (["--data.name", "cifar100"], (3, 32, 100)),
        (["--data.name", "mnist", "--data.image_size", "32"], (1, 32, 10)),
        (["--data.name", "digits", "--data.image_size", "64", "--data.channels", "3"], (3, 64, 10)),
        (["--data.name", "synthetic", "--data.synthetic_classes", "7"], (3, 32, 7)),
    ],
)
def test_the_table_is_that_of_the_data_set_s_shape(
    capsys: pytest.CaptureFixture[str], arguments: list[str], shape: tuple[int, int, int]
) -> None:
    channels, size, classes = shape
    assert main(arguments) == 0
    rows = describe(ModelConfig(), channels=channels, image_size=size, num_classes=classes)
    assert f"{sum(row.parameters for row in rows):,}" in capsys.readouterr().out


def test_the_bytes_of_a_layer_are_those_of_its_gradient_or_its_factors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.name", "vgg16", "--data.name", "folder", "--train.batch_size", "64", "--plan.ranks", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (hidden,) = (line.split() for line in lines if line.startswith("hidden1"))
    assert hidden[-4:] == ["588.02", "MiB", "21.38", "MiB"]  # 1.5 x 392 MiB, and 3 x 64 x (4096 + 25088) numbers
    assert lines[-1].startswith("sent: per step by each of 4 ranks with 64 samples")


def test_the_quickstart_s_network_is_printed_when_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0 and "stage3.conv1" in capsys.readouterr().out


def test_a_network_too_deep_for_its_images_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.name", "vgg16", "--data.name", "digits"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("vggdist: ") and printed.err.count("\n") == 1


def test_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.depth", "16"]) == 2 and "unknown key model.depth" in capsys.readouterr().err


def test_the_module_is_a_command_with_help() -> None:
    command = [sys.executable, "-m", "vggdist.summary", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--model.name" in done.stdout
