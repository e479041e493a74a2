"""Settings from files and flags are applied, and errors in them are reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vggdist.config.errors import RequestError
from vggdist.config.evaluation import MeasuringConfig
from vggdist.config.load import MOST_USED, QUICKSTART, as_yaml, checked, load, run_directory
from vggdist.config.options import options
from vggdist.config.schema import Config, RunConfig, TrainConfig

KEYS = list(options(Config))

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))

# A value of each option that differs from the default.
OTHER: dict[str, Any] = {
    "run.name": "other",
    "run.directory": "elsewhere",
    "run.seed": 4294967295,
    "run.resume": "never",
    "run.overwrite": True,
    "run.device": "cpu",
    "run.deterministic": False,
    "run.log_every": 3,
    "run.timeout": 10.0,
    "run.max_time": "12:00:00",
    "run.drift_steps": 0,
    "run.elastic": True,
    "run.layer_norms": True,
    "world.preset": "none",
    "world.bind": False,
    "model.name": "vgg16",
    "model.stages": [[1, 8], [2, 16]],
    "model.widths": [[8, 6], [16]],
    "model.batch_norm": True,
    "model.norm_momentum": 0.6,
    "model.whitening": True,
    "model.padding": 0,
    "model.width_divisor": 4,
    "model.head": "global_average",
    "model.activation": "gelu",
    "model.early_pooling": True,
    "model.hidden": [],
    "model.dropout": 0.25,
    "model.initializer": "xavier",
    "model.magnitude": 2.0,
    "model.output_scale": 0.5,
    "model.pretrained": "runs/other",
    "model.freeze": 2,
    "data.name": "synthetic",
    "data.root": "/data",
    "data.download": True,
    "data.image_size": 32,
    "data.channels": 3,
    "data.held_out": 0.5,
    "data.validation": 0.1,
    "data.damaged": "skip",
    "data.last_batch": "drop",
    "data.threads": 5,
    "data.prefetch": 7,
    "data.synthetic_samples": 8,
    "data.synthetic_classes": 2,
    "augment.resize": 256,
    "augment.random_resized_crop": True,
    "augment.crop_scale": [0.5, 0.9],
    "augment.crop_ratio": [0.8, 1.25],
    "augment.scale_jitter": [256, 512],
    "augment.pad_crop": 4,
    "augment.pad_mode": "reflect",
    "augment.flip": True,
    "augment.randaugment": [2, 9],
    "augment.brightness": 0.1,
    "augment.contrast": 0.2,
    "augment.saturation": 1.0,
    "augment.lighting": 0.1,
    "augment.cutout": 8,
    "augment.erasing": 0.25,
    "augment.progressive": [[2, 6], [4, 7]],
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "augment.normalize": "computed",
    "optimizer.name": "lars",
    "optimizer.learning_rate": 1e-3,
    "optimizer.scale_learning_rate": True,
    "optimizer.momentum": 0.0,
    "optimizer.beta1": 0.8,
    "optimizer.beta2": 0.99,
    "optimizer.epsilon": 1e-7,
    "optimizer.lars_trust": 0.01,
    "optimizer.weight_decay": 1e-05,
    "optimizer.decay_all": True,
    "optimizer.backbone_rate": 0.1,
    "optimizer.muon_iterations": 3,
    "optimizer.groups": [["*_beta", 64.0, 0.0], ["output_*", 0.1, 1.0]],
    "optimizer.clip_norm": 1.5,
    "optimizer.ema_decay": 0.99,
    "schedule.name": "step",
    "schedule.warmup_epochs": 2.5,
    "schedule.warmup_factor": 0.5,
    "schedule.milestones": [3.0, 4.5],
    "schedule.gamma": 0.5,
    "schedule.power": 1.0,
    "schedule.final_factor": 0.01,
    "schedule.rise": 0.25,
    "train.epochs": 0.5,
    "train.steps": 9,
    "train.loss_scale": 1024.0,
    "train.class_weights": "balanced",
    "train.patience": 2.5,
    "train.batch_size": 16,
    "train.global_batch_size": 48,
    "train.accumulation": 2,
    "train.label_smoothing": 0.1,
    "train.precision": "bfloat16",
    "train.compression": "fp16",
    "train.factors": "always",
    "train.network_bandwidth": 25.0,
    "train.bucket_cap_mb": 0.5,
    "train.nonfinite": "skip",
    "train.loss_smoothing": 1.0,
    "evaluation.every_epochs": 0,
    "evaluation.batch_size": 64,
    "evaluation.crops": 10,
    "evaluation.views": 6,
    "evaluation.training_set": True,
    "checkpoint.every_epochs": 3,
    "checkpoint.every_steps": 500,
    "checkpoint.every_minutes": 2.5,
    "checkpoint.keep_last": 5,
    "checkpoint.keep_every": 1000,
    "checkpoint.best_metric": "loss",
}
# Values that are allowed only beside these.
COMPANIONS = {
    "model.stages": ["--model.name", "custom"],
    "model.widths": ["--model.name", "custom"],
    "augment.progressive": ["--model.head", "global_average"],
    "model.freeze": ["--model.pretrained", "runs/other"],
    "optimizer.backbone_rate": ["--model.pretrained", "runs/other"],
    "schedule.name": ["--schedule.milestones", "[3]"],
}
PLAIN = ["--data.name", "digits", "--run.name", "plain"]  # selects a data set, so that the quickstart is not used
DEFAULTS = Config(run=RunConfig(name="plain"))


def flag(key: str) -> list[str]:
    value = OTHER[key]
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    return [f"--{key}", text]


def companion_keys(key: str) -> set[str]:
    return {word[2:] for word in COMPANIONS.get(key, []) if word.startswith("--")}


def option(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def listed(value: Any) -> Any:
    return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def written(folder: Path, text: str) -> list[str]:
    """The flags that read a file of this text."""
    path = folder / "settings.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def test_this_table_has_a_new_value_for_every_option_of_the_schema() -> None:
    assert set(OTHER) == set(KEYS)
    assert not [key for key, value in OTHER.items() if listed(option(Config(), key)) == value]


@pytest.mark.parametrize("key", KEYS)
def test_every_option_is_a_flag_that_changes_it_alone_and_round_trips(key: str, tmp_path: Path) -> None:
    config = load("train", [*PLAIN, *COMPANIONS.get(key, []), *flag(key)])
    changed = {other for other in KEYS if option(config, other) != option(DEFAULTS, other)}
    assert listed(option(config, key)) == OTHER[key] and changed == {key, *companion_keys(key)}
    assert load("train", written(tmp_path, as_yaml(config))) == config


def test_the_defaults_round_trip(tmp_path: Path) -> None:
    assert load("train", written(tmp_path, as_yaml(DEFAULTS))) == DEFAULTS


def test_the_written_settings_name_every_key() -> None:
    written_keys = {f"{section}.{key}" for section, keys in yaml.safe_load(as_yaml(Config())).items() for key in keys}
    assert written_keys == set(KEYS)


def test_there_are_configurations_to_test() -> None:
    assert QUICKSTART.resolve() in {path.resolve() for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_each_configuration_of_the_repository_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = load("train", ["--config", str(path)])
    assert load("train", written(tmp_path, as_yaml(config))) == config


def test_without_file_and_names_it_is_the_quickstart() -> None:
    quickstart = load("train", ["--config", str(QUICKSTART)])
    assert load("train", []) == quickstart
    assert load("train", ["--run.seed", "7"]) == dataclasses.replace(
        quickstart, run=dataclasses.replace(quickstart.run, seed=7)
    )


@pytest.mark.parametrize("choice", [["--data.name", "digits"], ["--data.name=digits"], ["--model.name", "vgg11"]])
def test_naming_data_or_model_starts_from_the_defaults(choice: list[str]) -> None:
    assert load("train", [*choice, "--run.name", "plain"]) == DEFAULTS


def test_flags_after_a_file_override_it(tmp_path: Path) -> None:
    config = load("train", [*written(tmp_path, "train: {epochs: 3, batch_size: 8}"), "--train.epochs", "5"])
    assert (config.train.epochs, config.train.batch_size) == (5, 8)


@pytest.mark.parametrize(
    ("file", "flag", "overridden", "kept"),
    [
        ("train: {global_batch_size: 48}", ["--train.batch_size", "16"], "train.global_batch_size", ("train.batch_size", 16)),
        ("train: {steps: 7}", ["--train.epochs", "3"], "train.steps", ("train.epochs", 3)),
        (
            "checkpoint: {every_steps: 7}",
            ["--checkpoint.every_epochs", "2"],
            "checkpoint.every_steps",
            ("checkpoint.every_epochs", 2),
        ),
    ],
)
def test_a_flag_overrides_what_a_file_sets_instead_of_it(
    file: str, flag: list[str], overridden: str, kept: tuple[str, int], tmp_path: Path
) -> None:
    config = load("train", [*written(tmp_path, file), *flag])
    found = {key: getattr(getattr(config, key.partition(".")[0]), key.partition(".")[2]) for key in (overridden, kept[0])}
    assert found == {overridden: None, kept[0]: kept[1]}
    both = load("train", [*flag, f"--{overridden}", "96"])
    assert getattr(getattr(both, overridden.partition(".")[0]), overridden.partition(".")[2]) == 96


def test_numbers_of_numpy_are_numbers_and_other_objects_are_refused() -> None:
    valid = checked(Config(run=RunConfig(name="a"), train=TrainConfig(batch_size=np.int64(8), epochs=np.float64(2.5))))  # type: ignore[arg-type]
    assert (valid.train.batch_size, valid.train.epochs) == (8, 2.5) and type(valid.train.batch_size) is int
    with pytest.raises(RequestError, match="train.factors: Input should be"):
        checked(Config(run=RunConfig(name="a"), train=TrainConfig(factors=object())))  # type: ignore[arg-type]


def test_a_number_with_an_exponent_is_a_number_in_a_file(tmp_path: Path) -> None:
    assert load("train", written(tmp_path, "optimizer:\n  epsilon: 1e-7\n")).optimizer.epsilon == 1e-7


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("train.epoch", "train.epochs"),
        ("trian.epochs", "train.epochs"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("model.batchnorm", "model.batch_norm"),
    ],
)
def test_an_unknown_key_is_named_and_the_closest_suggested(key: str, suggestion: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    for arguments in ([*PLAIN, f"--{key}", "3"], [f"--{key}=3"], written(tmp_path, f"{section}:\n  {name}: 3\n")):
        with pytest.raises(RequestError, match=f"unknown key {key}; did you mean {suggestion}?"):
            load("train", arguments)


def test_a_withdrawn_setting_with_the_value_that_holds_now_is_read(tmp_path: Path) -> None:
    assert load("train", written(tmp_path, "model:\n  norm_epsilon: 1.0e-05\n")).model == Config().model
    with pytest.raises(RequestError, match=r"unknown key model\.norm_epsilon"):
        load("train", written(tmp_path, "model:\n  norm_epsilon: 1.0e-03\n"))


def test_a_key_without_likeness_is_named_without_suggestion() -> None:
    with pytest.raises(RequestError, match=r"unknown key qqq\.zzz \(--help lists every key\)"):
        load("train", ["--qqq.zzz", "1"])


def test_flags_are_not_abbreviated() -> None:
    with pytest.raises(RequestError, match=r"train\.batch_siz"):
        load("train", ["--train.batch_siz", "8"])


WRONG_TYPES = [
    ("train.batch_size", "many"),
    ("train.batch_size", "1.5"),
    ("data.name", "imagenet"),
    ("data.channels", "2"),
    ("data.download", "maybe"),
    ("augment.flip", "sometimes"),
    ("augment.pad_mode", "wrap"),
    ("model.stages", "[[1, 2], [3]]"),
    ("optimizer.learning_rate", "fast"),
    ("optimizer.groups", "[['*_beta', 64]]"),
    ("optimizer.groups", "[['*_beta', fast, 1]]"),
    ("optimizer.groups", "['*_beta', 64, 1]"),
    ("augment.crop_scale", "[0.1, 0.2, 0.3]"),
    ("augment.randaugment", "2"),
    ("evaluation.crops", "3"),
    ("evaluation.views", "3"),
    ("run.resume", "always"),
    ("world.preset", "tpu"),
    ("world.bind", "tightly"),
]
OUT_OF_RANGE = [
    ("run.name", "a/b"),
    ("run.name", "."),
    ("run.name", ".."),
    ("run.name", ".hidden"),
    ("run.name", "-flag"),
    ("run.name", "x" * 201),
    ("run.seed", "-1"),
    ("run.seed", "4294967296"),
    ("model.dropout", "1.0"),
    ("model.hidden", "[0]"),
    ("model.stages", "[[1, 8]]"),
    ("model.widths", "[[8]]"),
    ("model.norm_momentum", "1"),
    ("model.output_scale", "-1"),
    ("augment.progressive", "[[4, 24]]"),
    ("data.held_out", "0"),
    ("data.validation", "1"),
    ("train.patience", "0"),
    ("train.loss_scale", "0"),
    ("train.loss_scale", "static"),
    ("data.threads", "0"),
    ("augment.crop_scale", "[0.9, 0.1]"),
    ("augment.brightness", "1.5"),
    ("augment.cutout", "-1"),
    ("augment.scale_jitter", "[512, 256]"),
    ("augment.randaugment", "[0, 9]"),
    ("augment.randaugment", "[2, 31]"),
    ("augment.lighting", "-0.1"),
    ("augment.erasing", "1.1"),
    ("augment.cutmix", "-1"),
    ("optimizer.learning_rate", "0"),
    ("optimizer.learning_rate", ".inf"),
    ("optimizer.momentum", "1"),
    ("optimizer.clip_norm", "0"),
    ("optimizer.ema_decay", "1"),
    ("optimizer.muon_iterations", "0"),
    ("optimizer.groups", "[['*_beta', -1, 1]]"),
    ("optimizer.groups", "[['*_beta', 1, .inf]]"),
    ("schedule.milestones", "[4, 2]"),
    ("schedule.rise", "1"),
    ("train.steps", "1000000000000000000000"),
    ("train.epochs", "0"),
    ("train.epochs", ".inf"),
    ("train.epochs", ".nan"),
    ("train.batch_size", "0"),
    ("train.accumulation", "0"),
    ("train.factors", "sometimes"),
    ("train.network_bandwidth", "0"),
    ("train.bucket_cap_mb", "-1"),
    ("train.bucket_cap_mb", ".nan"),
    ("evaluation.batch_size", "0"),
    ("run.timeout", "0"),
    ("run.max_time", "soon"),
    ("run.drift_steps", "-1"),
    ("checkpoint.every_epochs", "-1"),
    ("checkpoint.every_steps", "0"),
    ("checkpoint.every_minutes", "0"),
    ("checkpoint.every_minutes", ".inf"),
    ("checkpoint.keep_every", "-1"),
    ("checkpoint.keep_last", "0"),
]


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES + OUT_OF_RANGE)
def test_a_value_of_the_wrong_type_or_range_names_its_key(key: str, value: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    for arguments in ([*PLAIN, f"--{key}", value], written(tmp_path, f"{section}:\n  {name}: {value}\n")):
        with pytest.raises(RequestError, match=key.replace(".", r"\.")) as caught:
            load("train", arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["3", "[1]", "true", "fast"])
def test_a_section_that_is_a_value_is_named(value: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="train"):
        load("train", written(tmp_path, f"train: {value}\n"))


def test_a_custom_network_needs_its_table() -> None:
    with pytest.raises(RequestError, match=r"model\.stages is null.*model\.name custom"):
        load("train", ["--model.name", "custom"])


def test_two_random_crops_exclude_each_other() -> None:
    with pytest.raises(RequestError, match=r"augment\.scale_jitter is .*random_resized_crop false"):
        load("train", ["--augment.scale_jitter", "[256, 512]", "--augment.random_resized_crop", "true"])


@pytest.mark.parametrize(("crops", "views"), [(5, 2), (10, 6)])
def test_several_crops_and_several_views_exclude_each_other(crops: int, views: int, tmp_path: Path) -> None:
    flags = ["--evaluation.crops", str(crops), "--evaluation.views", str(views)]
    for arguments in (flags, written(tmp_path, f"evaluation:\n  crops: {crops}\n  views: {views}\n")):
        with pytest.raises(RequestError, match=rf"evaluation\.views is {views}; expected 1 with evaluation\.crops {crops}$"):
            load("train", arguments)


@pytest.mark.parametrize(
    ("settings", "at_once"), [({}, 20), ({"crops": 5}, 20), ({"views": 2}, 20), ({"views": 6}, 18), ({"crops": 10}, 20)]
)
def test_each_crop_and_view_counts_in_the_batch_of_an_evaluation(settings: dict[str, Any], at_once: int) -> None:
    assert MeasuringConfig(batch_size=20, **settings).images_at_once == at_once
    inputs = MeasuringConfig(batch_size=1, **settings).images_at_once  # one sample at least
    assert inputs == settings.get("crops", 1) * settings.get("views", 1)


def test_an_elastic_run_needs_one_precision() -> None:
    with pytest.raises(RequestError, match=r"train\.precision is 'auto'; expected one type with run\.elastic"):
        load("train", ["--run.elastic", "true", "--train.precision", "auto"])


def test_the_step_schedule_needs_milestones() -> None:
    with pytest.raises(RequestError, match=r"schedule\.milestones.*at least one epoch"):
        load("train", ["--schedule.name", "step"])


@pytest.mark.parametrize("text", ["a: [1\n", "- 3\n", "", "\x00"])
def test_a_file_that_holds_no_settings_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        load("train", written(tmp_path, text))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RequestError, match="/nowhere/settings.yaml"):
        load("train", ["--config", "/nowhere/settings.yaml"])


@pytest.mark.parametrize("columns", ["", "wide", "0", "200"])
def test_help_exits_with_0_and_lists_every_key_with_its_text(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as left:
        load("train", ["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and "python -m vggdist.train" in text and "Random seed of initial parameters" in text
    assert not [key for key in KEYS if f"--{key} " not in text]


def test_the_run_directory_is_made_of_directory_and_name() -> None:
    assert run_directory(Config(run=RunConfig(name="a", directory="b"))) == Path("b/a")


@pytest.mark.parametrize("key", [key for key, option in options(Config).items() if not option.allows_null])
def test_null_is_refused_where_the_option_has_none(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    with pytest.raises(RequestError, match=rf"settings.yaml, line 2: {key} is null"):
        load("train", written(tmp_path, f"{section}:\n  {name}: null\n"))


@pytest.mark.parametrize("key", [key for key, option in options(Config).items() if option.allows_null])
def test_null_is_a_value_where_the_option_has_it(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    for arguments in ([*PLAIN, f"--{key}", "null"], written(tmp_path, f"{section}:\n  {name}: null\n")):
        assert option(load("train", arguments), key) is None


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202e", " a", "a ", "caf\udce9"])
def test_a_name_that_no_folder_should_have_is_refused_in_printable_text(name: str) -> None:
    with pytest.raises(RequestError, match=r"run\.name is ") as refused:
        load("train", [*PLAIN, "--run.name", name])
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["12:00:00", "'12:00:00'"])
def test_a_duration_needs_no_quotes(text: str, tmp_path: Path) -> None:
    assert load("train", written(tmp_path, f"run: {{max_time: {text}}}\n")).run.max_time == "12:00:00"


@pytest.mark.parametrize("name", ["2024", "on", "1e5", "null-run", "12:30"])
def test_a_name_is_what_is_written(name: str, tmp_path: Path) -> None:
    assert load("train", ["--run.name", name]).run.name == name
    assert load("train", written(tmp_path, f"run:\n  name: {name}\n")).run.name == name


def test_an_option_of_true_false_or_a_name_takes_each(tmp_path: Path) -> None:
    for text, value in {"true": True, "no": False, "alternating": "alternating"}.items():
        flag, file = ["--augment.flip", text], written(tmp_path, f"augment: {{flip: {text}}}\n")
        assert [load("train", arguments).augment.flip for arguments in (flag, file)] == [value, value]


@pytest.mark.parametrize("no", ["no", "false", "off", "False"])
def test_yes_and_no_mean_the_same_in_flags_and_files(no: str, tmp_path: Path) -> None:
    assert load("train", ["--world.bind", no]).world.bind is False
    assert load("train", written(tmp_path, f"world: {{bind: {no}}}\n")).world.bind is False


def test_what_comes_last_on_the_command_line_holds(tmp_path: Path) -> None:
    file = written(tmp_path, "run: {name: b}\n")
    assert load("train", ["--run.name", "a", *file]).run.name == "b"
    assert load("train", [*file, "--run.name", "a"]).run.name == "a"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("wd", "optimizer.weight_decay"),
        ("bs", "train.batch_size"),
        ("epochs", "train.epochs"),
        ("batch-size", "train.batch_size"),
        ("data.batch_size", "train.batch_size"),
        ("workers", "data.threads"),
        ("arch", "model.name"),
        ("output_dir", "run.directory"),
    ],
)
def test_a_name_of_other_trainers_is_understood(key: str, suggestion: str) -> None:
    with pytest.raises(RequestError, match=rf"unknown key {key}; did you mean {suggestion}\?"):
        load("train", [f"--{key}", "3"])


@pytest.mark.parametrize("key", ["model.weight", "train.optimizer", "model.breadth"])
def test_what_is_not_close_is_not_suggested(key: str) -> None:
    with pytest.raises(RequestError, match=rf"unknown key {key} \(--help"):
        load("train", [f"--{key}", "3"])


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["configs/x.yaml"], "write --config configs/x.yaml"),
        (["more"], "'more' is not an option"),
        (
            ["--optimizer.groups", "[[*_beta, 64, 0]]"],
            r"groups is '\[\[\*_beta.*quotes around text that starts with \*",
        ),
        (["--model.hidden", "128"], r"model.hidden is 128; .*write \[128\]"),
        (["--augment.flip"], "--augment.flip has no value; write --augment.flip true"),
        (["--augment.flip", "1"], "augment.flip is 1; expected a valid boolean or 'alternating'"),
        (["--train.loss_scale", "auto"], "train.loss_scale is 'auto'; expected 'dynamic' or a valid number"),
        (["--train.epochs"], "write --train.epochs 0.1"),
        (["--augment.crop_scale"], r"write --augment.crop_scale \[0.1,0.1\]"),
        (["--run", '{"name": "x"}'], "run is a section; write its keys, such as run.device"),
        (["--config"], "expected one argument"),
    ],
)
def test_a_slip_of_the_command_line_is_answered_with_what_to_write(arguments: list[str], advice: str) -> None:
    with pytest.raises(RequestError, match=advice):
        load("train", arguments)


def test_a_wrong_file_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(RequestError, match=r"quikstart.yaml: No such file.*did you mean .*/quickstart.yaml\?"):
        load("train", ["--config", str(tmp_path / "quikstart.yaml")])


def test_a_message_about_a_file_names_file_and_line(tmp_path: Path) -> None:
    for text, line in (("train:\n  epochs: 0\n", 2), ("train:\n  epochs: many\n", 2), ("train:\n  a: 1\n", 2)):
        with pytest.raises(RequestError, match=rf"/settings.yaml, line {line}: .*train\."):
            load("train", written(tmp_path, text))


def test_a_path_means_what_a_shell_means_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCRATCH", "/scratch")
    file = written(tmp_path, "run: {directory: ~/runs}\ndata: {root: $SCRATCH/images}\n")
    for arguments in (file, ["--run.directory=~/runs", "--data.root=${SCRATCH}/images"]):
        config = load("train", arguments)
        assert (config.run.directory, config.data.root) == ("/home/someone/runs", "/scratch/images")


def test_a_run_without_a_name_has_that_of_its_file_or_of_model_and_data(tmp_path: Path) -> None:
    assert load("train", written(tmp_path, "train: {epochs: 3}\n")).run.name == "settings"
    assert load("train", ["--data.name", "cifar10", "--model.name", "vgg16"]).run.name == "vgg16-cifar10"
    assert load("train", ["--train.epochs", "3"]).run.name == "quickstart"
    file = tmp_path / ".hidden.yaml"
    file.write_text("train: {epochs: 3}\n")
    with pytest.raises(RequestError, match=r"choose one with --run\.name"):
        load("train", ["--config", str(file)])


def test_the_configuration_in_a_run_is_that_run_wherever_it_was_copied_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied = tmp_path / "elsewhere" / "b"
    (copied / "checkpoints").mkdir(parents=True)
    (copied / "config.yaml").write_text("run: {name: a, directory: runs}\n")
    assert run_directory(load("train", ["--config", "elsewhere/b/config.yaml"])) == Path("elsewhere/b")
    again = load("train", ["--config", "elsewhere/b/config.yaml", "--run.name", "c"])
    assert run_directory(again) == Path("elsewhere/c")
    monkeypatch.chdir(copied)
    assert run_directory(load("train", ["--config", "config.yaml"])) == copied
    (tmp_path / "config.yaml").write_text(
        "run: {name: a, directory: runs}\n"
    )  # without checkpoints it is an ordinary settings file
    monkeypatch.chdir(tmp_path)
    assert run_directory(load("train", ["--config", "config.yaml"])) == Path("runs/a")


def test_the_home_of_an_unknown_user_is_a_file_that_does_not_exist() -> None:
    with pytest.raises(RequestError, match="~nosuchuser"):
        load("train", ["--config", "~nosuchuser/a.yaml"])


def test_help_begins_with_what_people_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("train", ["--help"])
    listed = [line.split()[0][2:] for line in capsys.readouterr().out.splitlines() if line.startswith("  --")]
    assert tuple(listed[1:11]) == MOST_USED and sorted(listed[1:]) == sorted(KEYS)
