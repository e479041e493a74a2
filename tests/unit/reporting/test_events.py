"""TensorBoard reads text, pictures and hyper-parameters from our event files, with the run's own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from vggdist.config.schema import AugmentConfig, Config, DataConfig, ModelConfig, OptimizerConfig
from vggdist.reporting.evaluation_images import Mistake
from vggdist.reporting.events import EventFile
from vggdist.reporting.hyper_parameters import hyper_parameters
from vggdist.reporting.report import Report, RunReport

HYPER_PARAMETERS: dict[str, bool | float | str] = {
    "optimizer.learning_rate": 0.05,
    "model.batch_norm": True,
    "ranks": 2,
    "model.name": "vgg11",
}
CONFUSION = np.array([[3, 1], [0, 4]])


def events_of(folder: Path) -> Any:
    found = EventAccumulator(str(folder), {"images": 0, "tensors": 0})
    found.Reload()
    return found


def session(found: Any, tag: str) -> Any:
    content = found.summary_metadata[tag].plugin_data.content
    parse = {
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }
    return parse[tag](content)


def plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("kind"))


def test_a_run_stands_under_its_own_name(tmp_path: Path) -> None:
    with RunReport(tmp_path / "first", 0, 10) as report:
        report.best(1, "top1", 50.0)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    assert multiplexer is not None
    multiplexer.Reload()
    assert list(multiplexer.Runs()) == ["first"]


def test_the_configuration_is_text_as_it_stands_in_its_file(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.record_configuration("run:\n  name: a_b*c\n", {})
    found = events_of(tmp_path)
    assert found.summary_metadata["configuration"].plugin_data.plugin_name == "text"
    (event,) = found.Tensors("configuration")
    assert event.tensor_proto.string_val == [b"    run:\n      name: a_b*c"]  # a block of code in Markdown


def test_the_hparams_page_has_each_value_with_its_type(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.record_configuration("", HYPER_PARAMETERS)
    found = events_of(tmp_path)
    assert found.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.plugin_name == metadata.PLUGIN_NAME
    values = {name: plain(value) for name, value in session(found, metadata.SESSION_START_INFO_TAG).hparams.items()}
    assert values == HYPER_PARAMETERS and values["model.batch_norm"] is True


def test_a_run_that_comes_to_its_end_says_so_and_one_that_fails_does_not(tmp_path: Path) -> None:
    with RunReport(tmp_path / "finished", 0, 10) as report:
        report.advance(10)
    assert session(events_of(tmp_path / "finished"), metadata.SESSION_END_INFO_TAG).status == 1  # STATUS_SUCCESS
    with pytest.raises(RuntimeError), RunReport(tmp_path / "failed", 0, 10) as report:
        report.best(1, "top1", 50.0)
        raise RuntimeError
    assert metadata.SESSION_END_INFO_TAG not in events_of(tmp_path / "failed").summary_metadata


def test_each_evaluation_has_a_picture_of_its_confusion_matrix(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10, ("round", "square")) as report:
        for step in (2, 4):
            report.evaluation(step, step / 2, "eval", {"eval/loss": 0.5}, CONFUSION)
    first, second = events_of(tmp_path).Images("confusion/eval")
    assert (first.step, second.step) == (2, 4) and first.width == second.width > 100
    assert second.encoded_image_string.startswith(b"\x89PNG")


def test_a_matrix_of_very_many_classes_is_not_drawn(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.evaluation(1, 1, "eval", {"eval/loss": 0.5}, np.eye(201, dtype=int))
    assert not events_of(tmp_path).Tags()["images"] and (tmp_path / "confusion-eval.json").is_file()


def test_the_worst_mistakes_are_a_picture_and_without_any_there_is_none(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.mistakes(1, [])
        report.mistakes(2, [Mistake(np.zeros((8, 8, 1), np.uint8), "round", "square", 0.9)])
    (event,) = events_of(tmp_path).Images("mistakes")
    assert event.step == 2


def test_the_best_value_is_a_curve_of_its_own(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        for step, value in ((1, None), (2, 50.0), (3, 50.0)):
            report.best(step, "top1", value)
    scalars = events_of(tmp_path).Scalars("best/top1(%)")
    assert [(event.step, event.value) for event in scalars] == [(2, 50), (3, 50)]


def test_other_ranks_write_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Report() as report:
        report.best(1, "top1", 50.0)
        report.mistakes(1, [Mistake(np.zeros((8, 8, 1), np.uint8), "round", "square", 0.9)])
    assert not list(tmp_path.iterdir())


def test_hyper_parameters_are_all_settings_that_may_change_the_result() -> None:
    config = Config(
        model=ModelConfig(name="custom", stages=((1, 8), (2, 16))),
        data=DataConfig(name="folder", root="/somewhere", validation=0.1),
        augment=AugmentConfig(flip=True, normalize="computed"),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.001),
    )
    found = hyper_parameters(config, global_batch_size=96, ranks=3)
    expected = {"optimizer.learning_rate": 0.001, "optimizer.name": "adam", "data.validation": 0.1, "model.batch_norm": False}
    assert expected.items() <= found.items()
    assert (found["model.stages"], found["augment.flip"]) == ("[[1, 8], [2, 16]]", True)
    assert (found["train.global_batch_size"], found["ranks"], found["run.seed"]) == (96, 3, 0)
    assert not {"data.root", "train.batch_size", "run.name", "run.log_every", "world.bind"} & {*found}
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())
    assert found.keys() == hyper_parameters(Config(), 32, 1).keys()  # a run that lacks one is left out of the plots
    assert hyper_parameters(Config(), 32, 1)["optimizer.clip_norm"] == "null"


def test_a_picture_is_stored_in_its_size(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file.image(3, "one", Image.new("RGB", (40, 30), (1, 2, 3)))
    file.close()
    (event,) = events_of(tmp_path).Images("one")
    assert (event.width, event.height, event.step) == (40, 30, 3)
