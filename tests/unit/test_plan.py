"""A job is planned without MXNet, and one that cannot run is refused with what would fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.options import options
from vggdist.config.plan import PlanRequest
from vggdist.plan import main

VGG16 = ["--model.name", "vgg16", "--data.name", "folder", "--plan.samples", "1281167", "--train.batch_size", "64"]

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mxnet", "horovod", "mpi4py"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from vggdist.plan import main
sys.exit(main(sys.argv[1:]))
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("vggdist: ") and output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("arguments", [[], [*VGG16, "--plan.images_per_s", "100"], ["--plan.published", "true"]])
def test_it_needs_neither_mxnet_nor_horovod(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_quickstart_is_planned_as_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys)
    assert lines[:7] == [
        "ranks              2 on 1 host",
        "global batch       32 samples, 16 on each rank",
        "training samples   1,438, 2 added as padding in each epoch",
        "steps              45 in each epoch, 900 in all",
        "peak learning rate 0.02",
        "",
        "sent by each rank in each step: 1.17 MiB",
    ]
    assert lines[-1] == "scaling            not predicted: set plan.images_per_s to the measured speed of a single rank"


def test_vgg16_on_512_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    rule = ["--optimizer.scale_learning_rate", "true", "--optimizer.learning_rate", "0.01", "--train.epochs", "90"]
    job = ["--plan.ranks", "512", "--plan.images_per_s", "130.9", "--data.last_batch", "drop"]
    job += ["--train.factors", "never", "--train.bucket_cap_mb", "4"]
    lines = printed(capsys, *VGG16, *rule, *job)
    assert lines[:5] == [
        "ranks              512 on 128 hosts",
        "global batch       32,768 samples, 64 on each rank",
        "training samples   1,281,167, 3,215 dropped in each epoch",
        "steps              39 in each epoch, 3,510 in all",
        "peak learning rate 5.12 (0.01 x 512 ranks)",
    ]
    assert lines[6] == "sent by each rank in each step: 1.03 GiB"  # 2 x 511 / 512 of 527.79 MiB
    assert lines[9].split() == ["hidden1", "782.50", "MiB", "3.56", "GiB"]
    memory = lines.index("memory of each rank (estimate)")
    assert [line.split()[-2:] for line in lines[memory + 1 : memory + 4]] == [["527.79", "MiB"]] * 3
    first = next(number for number, line in enumerate(lines) if line.startswith("predicted scaling")) + 3
    rows = [line.split() for line in lines[first : first + 10]]
    assert [row[0] for row in rows] == [str(2**power) for power in range(10)]
    assert rows[0] == ["1", "1", "488.9", "130.9", "100.0", "-", "-", "-"]
    efficiencies = [float(row[4]) for row in rows]
    assert efficiencies == sorted(efficiencies, reverse=True)


def efficiency(lines: list[str], ranks: int) -> float:
    """The efficiencies of the ring in the table of predictions."""
    first = next(number for number, line in enumerate(lines) if line.startswith("predicted scaling")) + 3
    return next(float(line.split()[4]) for line in lines[first:] if line.split()[0] == str(ranks))


JOB = [*VGG16, "--plan.ranks", "16", "--plan.images_per_s", "130.9"]


def test_buckets_and_factors_are_seen_in_the_efficiency(capsys: pytest.CaptureFixture[str]) -> None:
    job = [*JOB, "--train.factors", "never", "--train.bucket_cap_mb"]
    beside, after = (efficiency(printed(capsys, *job, cap), 16) for cap in ("0", ".inf"))
    assert beside == pytest.approx(84.6, abs=0.5) and after < 60
    accumulated = efficiency(printed(capsys, *job, "0", "--train.accumulation", "4"), 16)
    assert after < accumulated < beside  # only the last of four backward passes overlaps
    assert efficiency(printed(capsys, *JOB, "--train.factors", "always"), 16) > 95


def test_the_layers_that_travel_as_factors_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *JOB)
    named = [line.split()[0] for line in lines if line.endswith("sent as factors")]
    assert named == ["hidden1", "hidden2", "output"] and "sent by each rank in each step: 260.78 MiB" in lines
    assert not any("travels" in line for line in printed(capsys, *JOB, "--train.network_bandwidth", "1000"))


def test_the_fastest_setting_is_named_for_this_job_and_others(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *JOB)
    assert lines[-1].startswith("for this job: --train.bucket_cap_mb 1 --train.factors auto --train.network_bandwidth 20.25")
    table = [line.removeprefix("this job").split() for line in lines[-11:-1]]
    assert [row[:2] for row in table] == [
        ["16", "25"],
        *([ranks, gigabits] for ranks in ("8", "64", "512") for gigabits in ("10", "25", "100")),
    ]
    configured = efficiency(printed(capsys, *JOB, "--train.bucket_cap_mb", "1", "--train.network_bandwidth", "20.25"), 16)
    assert float(table[0][4]) == configured >= efficiency(lines, 16)


def test_the_page_on_plans_has_the_fastest_settings_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *JOB, "--world.preset", "gpu")
    first = next(number for number, line in enumerate(lines) if line.startswith("fastest setting"))
    assert "\n".join(lines[first:]) in (Path(__file__).parents[2] / "docs" / "plan.md").read_text()


def test_on_gpus_gradients_are_released_by_bulk_segments(capsys: pytest.CaptureFixture[str]) -> None:
    job = [*JOB, "--train.factors", "never", "--train.bucket_cap_mb", "4", "--world.preset"]
    cpu, gpu = (efficiency(printed(capsys, *job, preset), 16) for preset in ("cpu", "gpu"))
    assert gpu < cpu - 5


def test_half_precision_halves_what_is_reduced_but_for_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *VGG16, "--model.batch_norm", "true", "--train.compression", "fp16")
    assert lines[6] == "sent by each rank in each step: 263.94 MiB"  # 2 x 138,365,992 + 4 x 8,448 bytes


def test_the_factors_of_all_ranks_take_memory(capsys: pytest.CaptureFixture[str]) -> None:
    never, always = (printed(capsys, *JOB, "--train.factors", factors) for factors in ("never", "always"))
    (before, *_), (after, *_) = ([line for line in lines if line.startswith("  reduction")] for lines in (never, always))
    # 16 x 64 rows of three layers, and the largest twice: 4 x 1024 x (29,184 + 8,192 + 5,096 + 29,184) bytes.
    assert before.split()[1:] == ["128.00", "MiB"] and after.split()[1:] == ["407.91", "MiB"]


def test_frozen_stages_send_neither_gradients_nor_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model.name", "custom", "--model.stages", "[[1, 256], [1, 8]]", "--model.batch_norm", "true"]
    frozen = ["--model.hidden", "[]", "--model.pretrained", "runs/other", "--model.freeze", "1"]
    lines = printed(capsys, *model, *frozen, "--data.name", "digits", "--plan.ranks", "2")
    # Stage 2 has 9 x 256 x 8 weights, 2 x 8 of its normalisation and as many statistics, the output layer 32 x 10 + 10: two
    # ranks send what they sum, 4 x 18,794 bytes.
    assert "sent by each rank in each step: 73.41 KiB" in lines


def test_one_rank_reduces_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--plan.ranks", "1")[6] == "sent by each rank in each step: 0 B"


def test_a_folder_at_hand_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog", "eel"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    small = ["--train.batch_size", "4", "--data.image_size", "32", "--data.root", str(tmp_path)]
    assert printed(capsys, "--data.name", "folder", *small)[2] == "training samples   18, 6 added as padding in each epoch"


def test_a_folder_that_is_elsewhere_asks_for_its_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "set plan.samples" in refusal(capsys, "--data.name", "folder", "--data.root", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan.ranks", "2000", "--train.global_batch_size", "2000"], "start at most 1438 ranks"),
        (["--train.global_batch_size", "1600"], "use at most 719 samples per rank"),
        (["--train.global_batch_size", "33"], "use 32 or 34 samples over all ranks"),
        (["--train.accumulation", "3"], "use 30 or 36 samples over all ranks"),
        (["--schedule.warmup_epochs", "30"], "shorten the warm-up"),
        (["--plan.rank", "3"], "unknown key plan.rank; did you mean plan.ranks?"),
        (["--plan.network_share", "1.1"], "plan.network_share is 1.1"),
        (["--plan.images_per_s", ".inf"], "plan.images_per_s is inf; expected finite numbers"),
        (["--plan.fusion_threshold", ".nan"], "plan.fusion_threshold is nan; expected finite numbers"),
        (["--plan.ranks", "0"], "plan.ranks is 0; expected at least 1 rank"),
    ],
)
def test_a_job_that_cannot_run_is_refused_with_what_would(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refusal(capsys, *arguments)


def test_too_little_memory_is_refused_with_the_batch_and_the_accumulation_that_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(capsys, *VGG16, "--plan.memory", "12")
    assert "64 samples at once need 12.80 GiB on each rank, plan.memory is 12 GiB; at most 57 samples" in message
    assert "evaluation.batch_size" in message and "train.accumulation 2" in message
    for fitting in (["--train.accumulation", "2"], ["--train.batch_size", "57"], ["--evaluation.batch_size", "96"]):
        assert main([*VGG16, "--plan.memory", "12", *fitting]) == 0
    capsys.readouterr()
    assert "at most 57" in refusal(capsys, *VGG16, "--plan.memory", "12", "--train.batch_size", "58")


def test_memory_that_the_evaluation_alone_takes_names_its_batch(capsys: pytest.CaptureFixture[str]) -> None:
    message = "what does not depend on the batch needs 5.33 GiB, 3.66 GiB of it for evaluation.batch_size 128"
    assert message in refusal(capsys, *VGG16, "--plan.memory", "5")


def test_what_feeds_each_kind_of_gpu_is_listed_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *VGG16, "--augment.random_resized_crop", "true", "--plan.cores", "16")
    start = lines.index("input of a rank on a GPU (estimate); a core prepares 869 images/s")
    (a100,) = [line for line in lines[start:] if line.startswith("  A100")]
    assert a100.split()[1:5] == ["503.6", "1", "3", "54"] and "lambda-tensorflow-benchmark" in a100
    assert not [line for line in lines if line.startswith("warning")]


def test_a_measured_rate_takes_the_place_of_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *VGG16, "--plan.images_per_s", "2000", "--plan.cores", "16", "--plan.ranks", "8")
    assert [line.split()[:5] for line in lines if "plan.images_per_s" in line] == [["this", "one", "2,000.0", "3", "5"]]
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: data.threads 2 is too few for this one; set it to 3",
        "warning: 4 x this one on a host need 20 cores, plan.cores is 16; vggdist prepare --short-side 288, or use hosts "
        "with more cores, or start fewer ranks on each",
    ]


def test_images_in_memory_are_compared_with_a_measured_rate_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--data.name", "cifar10")
    assert "input of a rank on a GPU (estimate); a core prepares 58,824 images/s" in lines
    assert not [line for line in lines if "A100" in line]
    assert [line for line in printed(capsys, "--data.name", "cifar10", "--plan.images_per_s", "9000") if "this one" in line]


def test_published_runs_stand_beside_their_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--plan.published", "true")
    assert len(lines) == 8 and lines[-1].startswith("  512  25 Gbit/s RDMA    348.2 (68.0 %)")


def test_help_lists_every_option_with_its_text() -> None:
    command = [sys.executable, "-m", "vggdist.plan", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not [key for key in options(PlanRequest) if f"--{key} " not in done.stdout]


def test_a_training_knows_no_plan() -> None:
    with pytest.raises(RequestError, match="unknown key plan.ranks"):
        load("train", ["--plan.ranks", "3"])


def test_an_average_of_the_weights_and_a_step_that_may_be_left_out_take_copies(capsys: pytest.CaptureFixture[str]) -> None:
    def states(*flags: str) -> str:
        return next(line for line in printed(capsys, *VGG16, *flags) if "optimizer state" in line).split(maxsplit=2)[2]

    assert states() == "527.79 MiB"
    assert states("--optimizer.ema_decay", "0.999") == "1.03 GiB"
    assert states("--train.nonfinite", "skip") == states("--train.loss_scale", "dynamic") == "1.55 GiB"
