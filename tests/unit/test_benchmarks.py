"""The benchmark programs: what they start, what they read from it, and how failures are reported."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path
from typing import Any

import ablation
import compare
import hosts
import measure
import network
import psutil
import pytest
import results
import run
import tutorial
from measure import Program, ProgramFailed
from start import seconds_to_first_step

from tests.launching import DEADLINE
from vggdist.benchmarking.series import Series
from vggdist.config.load import load
from vggdist.config.schema import ModelConfig
from vggdist.models.layers import describe

PARAMETERS = 9_228_362


def python(code: str, copies: int = 1, environment: str = "") -> Program:
    """A program whose speed is the number that it prints."""
    return Program((sys.executable, "-c", code), lambda place: float((place / "output.txt").read_text()), environment, copies)


@pytest.mark.parametrize("name", ["mpi", "gloo-fp16", "ours-gloo", "ours-two-alone"])
def test_our_trainings_are_asked_for_as_it_is_said(name: str) -> None:
    command = {**compare.WAYS, **run.programs(measure.VGG11, 2, run.PYTORCH)}[name].command
    config = load("train", command[command.index("vggdist.train") + 1 :])
    assert (config.model.name, config.model.batch_norm, config.model.hidden) == ("vgg11", True, ())
    assert (config.train.batch_size, config.train.steps, config.run.log_every) == (128, 24, 8)
    assert (config.augment.pad_crop, config.augment.flip) == (4, True)
    assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.weight_decay) == ("sgd", 0.9, 5e-4)


def test_other_programs_of_one_process_have_a_thread_for_each_core() -> None:
    """MXNet's default is one for every two cores."""
    config = load("train", ["--config", str(tutorial.CONFIG)])
    programs = run.programs(measure.VGG11, 2, run.PYTORCH)
    all_cores = f"OMP_NUM_THREADS={measure.machine()['cores']}"
    assert tutorial.theirs(config, [], steps=2, every=1, seed=0).environment == all_cores
    assert (programs["plain-mxnet-threads"].environment, programs["plain-mxnet"].environment) == (all_cores, "")


def test_the_warm_up_does_not_count_and_longer_intervals_count_more(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "vgg11-synthetic"
    folder.mkdir(parents=True)
    lines = [{"step": 8, "throughput/images_per_s": 1.0}, {"step": 8, "eval/loss": 0.0}]
    lines += [{"step": 16, "throughput/images_per_s": 8.0}, {"step": 18, "throughput/images_per_s": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measure.reported(tmp_path) == pytest.approx(10 / (8 / 8 + 2 / 1))


def test_copies_are_summed_and_see_the_environment_of_their_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # from the shell, not requested
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "7")
    sound = "'OMP_NUM_THREADS' not in os.environ and os.environ['HOROVOD_GLOO_TIMEOUT_SECONDS'] == '600'"
    code = f"import os; print(os.environ['SPEED'] if {sound} else 0)"
    assert measure.images_per_second("two", python(code, 2, "SPEED=3")) == 6


@pytest.mark.parametrize(
    ("code", "copies", "message"),
    [
        ("import sys; sys.exit('out of paper')", 1, "ended with 1:\nout of paper"),
        ("import os; os.kill(os.getpid(), 9)", 2, "ended with -9"),
        ("print('quite fast')", 1, "printed no speed"),
    ],
)
def test_a_program_that_fails_is_named_with_its_output(code: str, copies: int, message: str) -> None:
    with pytest.raises(ProgramFailed, match=f"(?s)^the printer .*{message}"):
        measure.images_per_second("the printer", python(code, copies))


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ProgramFailed, match="/nowhere/python"):
        measure.images_per_second("pytorch", Program(("/nowhere/python",), lambda place: 0.0, copies=2))


def test_a_program_that_does_not_end_is_named() -> None:
    with pytest.raises(ProgramFailed, match="the sleeper was not over after 0.1 s"):
        measure.images_per_second("the sleeper", python("import time; time.sleep(60)"), deadline=0.1)


def test_the_end_of_a_program_is_that_of_all_it_started(tmp_path: Path) -> None:
    code = "import subprocess; job = subprocess.Popen(['sleep', '600']); print(job.pid, flush=True); job.wait()"
    with measure.started((sys.executable, "-c", code), tmp_path / "place") as job:
        until = time.monotonic() + DEADLINE
        while not (number := (tmp_path / "place" / "output.txt").read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        sleeper = psutil.Process(int(number))
    _, alive = psutil.wait_procs([sleeper], timeout=10)
    assert job.returncode == -9 and all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_benchmark_that_is_terminated_ends_its_program(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import os, time; print(os.getpid(), file=open('{note}', 'w'), flush=True); os.kill(os.getppid(), 15); time.sleep(60)"
    )
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            measure.take_turns({"the sleeper": python(code)}, 1)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert not psutil.pid_exists(int(note.read_text()))


def test_a_signal_while_a_program_is_started_does_not_leave_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, start = [], subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        jobs.append(start(*arguments, **options))
        signal.raise_signal(signal.SIGINT)
        return jobs[-1]

    monkeypatch.setattr(measure.subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.images_per_second("the sleeper", python("import time; time.sleep(60)"))
    assert [job.returncode for job in jobs] == [-9]


@pytest.mark.parametrize("prefix", ["", "[0]<stdout>:", "[1,0]<stdout>:"])
def test_a_peer_s_line_is_found_behind_what_its_launcher_writes(tmp_path: Path, prefix: str) -> None:
    line = json.dumps({"images_per_s": 123.5, "parameters": PARAMETERS, "loss": 2.3})
    (tmp_path / "output.txt").write_text(f"a warning\n{prefix}{line}\n[1]<stderr>: another\n")
    assert run.printed_speed(tmp_path, measure.VGG11.layers) == 123.5


def test_a_peer_that_trains_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text(json.dumps({"images_per_s": 123.5, "parameters": PARAMETERS + 64}))
    with pytest.raises(ValueError, match="9228426 parameters instead of 9228362"):
        run.printed_speed(tmp_path, measure.VGG11.layers)


def test_ratios_are_ours_to_theirs_turn_by_turn() -> None:
    speeds = {"ours-gloo": Series([200.0, 90.0]), "plain-mxnet": Series([100.0, 30.0])}
    head, mine, theirs = run.table(speeds).splitlines()
    assert "ours-gloo / it" in head and mine.endswith("1 (1 to 1)")
    assert theirs.split() == "plain-mxnet 65 (30 to 100) 2.5 (2 to 3)".split()


def test_a_failure_ends_the_comparison_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {"ours-gloo": python("print(1)"), "plain-mxnet": python("import sys; sys.exit('no network')")}
    monkeypatch.setattr(run, "programs", lambda workload, ranks, pytorch: failing)
    monkeypatch.setattr(sys, "argv", ["run.py", "--repeats", "1"])
    with pytest.raises(SystemExit) as ended:  # with a text: Python prints it and exits with 1
        run.main()
    assert "plain-mxnet ended with 1:\nno network" in str(ended.value.code)


@pytest.mark.parametrize(
    "arguments", [["--pytorch", "/nowhere/python"], ["tensorflow"], ["--network", "vgg16-224", "plain-mxnet"]]
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2 and arguments[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network_name", "group", "count"),
    [("vgg11-32", "frameworks", 11), ("vgg11-32", "precisions", 10), ("vgg16-224", "precisions", 10), ("vgg16-224", "", 5)],
)
def test_a_group_has_its_programs_for_a_network(
    network_name: str, group: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--network", network_name, "--pytorch", sys.executable, *group.split()])
    _, chosen = run.arguments()
    assert len(chosen) == count and {*chosen} <= {*run.GROUPS[group or "frameworks"]}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("network_name", "size", "batch", "steps"), [("vgg11-32", "32", "128", "16"), ("vgg16-224", "224", "16", "4")]
)
def test_pytorch_and_ours_are_asked_for_the_same_training(
    network_name: str, size: str, batch: str, steps: str, precision: str
) -> None:
    workload = run.NETWORKS[network_name]
    found, suffix = run.programs(workload, 2, Path("/peers/python")), run.SUFFIXES[precision]
    command = found[f"ours-gloo{suffix}"].command
    config = load("train", command[command.index("vggdist.train") + 1 :])
    assert config.train.precision == precision and config.train.steps == workload.warmup + workload.steps
    assert command[:4] == ("horovodrun", "--gloo", "-np", "2")
    theirs = found[f"pytorch-ddp-contiguous{suffix}"].command
    assert theirs[:5] == ("/peers/python", "-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert dict(zip(theirs[6::2], theirs[7::2])) == {
        **{"--network": config.model.name, "--image-size": size, "--samples": str(config.data.synthetic_samples)},
        **{"--batch-size": batch, "--warmup": str(workload.warmup), "--steps": steps},
        **{"--precision": precision, "--layout": "contiguous"},
    }
    assert (str(config.data.image_size), str(config.train.batch_size)) == (size, batch)
    assert found[f"pytorch-ddp-compiled{suffix}"].command[-1] == "--compile"
    assert found[f"limit-{precision}"].command[-2:] == ("--precision", precision)


def test_a_step_computes_every_gradient_but_that_of_the_images() -> None:
    model = ModelConfig(name="custom", stages=((2, 8),), hidden=())
    layers = describe(model, channels=3, image_size=4, num_classes=10)
    first, second, output = 2 * 9 * 3 * 8 * 16, 2 * 9 * 8 * 8 * 16, 2 * 8 * 4 * 10
    assert run.training_flops(layers) == 2 * first + 3 * second + 3 * output


def test_the_limit_is_the_rate_of_the_product_in_images(tmp_path: Path) -> None:
    layers = run.NETWORKS["vgg16-224"].layers
    # Simonyan & Zisserman 2015, column D with ten classes: 15.5 billion multiply-adds in a forward pass.
    assert run.training_flops(layers) == pytest.approx(6 * 15.466e9, rel=0.01)
    (tmp_path / "output.txt").write_text('a warning\n{"flops_per_s": 185e9}\n')
    assert run.limit(tmp_path, layers) == pytest.approx(2.0, rel=0.01)


def test_a_start_that_fails_is_no_start() -> None:
    with pytest.raises(ProgramFailed, match="(?s)made no step.*not today"):
        seconds_to_first_step((sys.executable, "-c", "print('not today')"))


def test_ours_and_the_tutorial_are_asked_for_the_same_training() -> None:
    flags = ["--config", str(tutorial.CONFIG), "--data.root", "/data"]
    config = load("train", flags)
    command = tutorial.ours(config, flags, [], 4, 2, 7).command
    asked = load("train", command[command.index("vggdist.train") + 1 :])
    assert (asked.model, asked.data, asked.optimizer, asked.augment) == (
        config.model,
        config.data,
        config.optimizer,
        config.augment,
    )
    assert (asked.train.global_batch_size, asked.train.steps, asked.run.log_every, asked.run.seed) == (128, 4, 2, 7)
    theirs = tutorial.theirs(config, [], 4, 2, 7).command[2:]
    assert theirs[-3:] == ("--hidden", "4096", "4096")
    values = dict(zip(theirs[:-3:2], theirs[1:-3:2]))
    assert values == {
        **{"--root": "/data", "--image-size": "224", "--batch-size": "128", "--learning-rate": "0.05"},
        **{"--divisor": "4", "--steps": "4", "--every": "2", "--seed": "7"},
    }


@pytest.mark.parametrize(("steps", "fails"), [([2, 4], False), ([2, 3, 4], True), ([2], True)])
def test_losses_of_other_steps_are_not_compared(steps: list[int], fails: bool, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "seed"
    folder.mkdir(parents=True)
    lines = [{"step": step, "train/loss": step / 2, "throughput/images_per_s": 9.0} for step in steps]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 4, "eval/top1(%)": 75.0}])
    )
    turns: list[dict[str, float]] = []
    flags = ["--config", str(tutorial.CONFIG)]
    read = tutorial.ours(load("train", flags), flags, turns, 4, 2, 0).speed
    if fails:
        with pytest.raises(ValueError, match=f"at steps {', '.join(map(str, steps))}"):
            read(tmp_path)
    else:
        assert read(tmp_path) == 9.0 and turns == [{"loss 1 to 2": 1.0, "loss 3 to 4": 2.0, "top-1, test set (%)": 75.0}]


def test_the_time_of_ours_is_a_multiple_of_the_tutorial_s() -> None:
    speeds = {"ours": Series([200.0, 90.0]), "tutorial": Series([100.0, 30.0])}
    results = {name: {"loss 1 to 20": Series([2.0, 2.5]), "loss 21 to 40": Series([1.0, 1.5])} for name in speeds}
    rows = tutorial.table(speeds, results).splitlines()
    assert rows[2].startswith("loss 21 to 40") and rows[2].endswith("1.25 (1 to 1.5)")
    assert rows[-1].split(maxsplit=4)[4] == "0.4167 (0.3333 to 0.5)"


def test_the_training_accuracy_of_an_epoch_is_the_mean_over_its_steps() -> None:
    key = "train/top1(%)"
    lines = [{"step": 6, "epoch": 0.6, key: 10.0}, {"step": 10, "epoch": 1.0, key: 20.0}, {"step": 10, "epoch": 1.0}]
    assert results.measured(key, [*lines, {"step": 15, "epoch": 1.5, key: 40.0}]) == {1: 14.0, 2: 40.0}


def test_each_picture_of_the_results_has_its_metrics_and_the_published_ones() -> None:
    for picture in results.RESULTS.glob("*.svg"):
        metrics = [key for line in map(json.loads, picture.with_suffix(".jsonl").open()) for key in line]
        assert results.published()[picture.stem].keys() <= {*metrics}


@pytest.mark.parametrize("name", results.published())
def test_published_figures_are_those_of_a_configuration(name: str) -> None:
    header = (results.RESULTS.parents[1] / "configs" / "seeds" / f"{name}.yaml").read_text().partition("run:")[0]
    for curve in results.published()[name].values():
        assert all(f"{value:g}" in header or str(value) in header for value in curve.values())


def setup(network_name: str = "vgg16", gbit: float | None = 1.0) -> network.Setup:
    return network.Setup(2, gbit, network_name, 64, 4, 12, run.PYTORCH, ("--run.seed", "3"))


@pytest.mark.parametrize(
    ("way", "cap", "factors", "compression", "bandwidth"),
    [
        ("one-group", inf, "never", "none", 10),
        ("buckets", 1, "never", "none", 10),
        ("factors", 1, "always", "none", 10),
        ("fp16", 1, "never", "fp16", 10),
        ("factors-fp16", 1, "always", "fp16", 10),
        ("auto", None, "auto", "none", 1),
    ],
)
def test_a_way_over_the_network_is_asked_for_as_it_is_said(
    way: str, cap: float | None, factors: str, compression: str, bandwidth: float
) -> None:
    config = load("train", setup().flags_of(way))
    assert (config.train.bucket_cap_mb, config.train.factors, config.train.compression) == (cap, factors, compression)
    assert config.train.network_bandwidth == bandwidth and config.run.seed == 3
    assert (config.model.name, config.model.hidden) == ("vgg16", (4096, 4096))
    assert (config.train.batch_size, config.train.steps, config.run.log_every) == (64, 16, 4)


def test_a_rank_on_a_host_finds_the_others_by_its_interface() -> None:
    command, environment = network.program(setup(), "buckets", 2, 4711)
    found = dict(pair.split("=") for pair in environment.split())
    assert command[1:3] == ("-m", "vggdist.train")
    assert (found["HOROVOD_RANK"], found["HOROVOD_SIZE"], found["HOROVOD_LOCAL_SIZE"]) == ("1", "2", "1")
    assert (found["HOROVOD_GLOO_IFACE"], found["HOROVOD_GLOO_RENDEZVOUS_ADDR"]) == ("eth0", "10.97.0.1")
    assert found["HOROVOD_GLOO_RENDEZVOUS_PORT"] == "4711"
    assert "HOROVOD_RANK" not in network.program(setup(), "alone", 2, None)[1]
    peer, environment = network.program(setup(), "pytorch-ddp", 1, None)
    assert peer[2:4] == ("--network", "vgg16") and "RANK=0 WORLD_SIZE=2" in environment


def test_hosts_share_the_cores_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4})
    assert [hosts.cores_of(host, 2) for host in (1, 2)] == [[0, 1], [2, 3]]
    assert [hosts.cores_of(host, 8) for host in (1, 5, 6, 8)] == [[0], [4], [0], [2]]


def test_the_steps_of_ours_and_of_a_peer_are_read_on_the_way(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    output.write_text("a warning\n")
    assert network.reported_steps(tmp_path) == 0
    output.write_text("a warning\nsteps 4\nsteps 16\n")
    assert network.reported_steps(tmp_path) == 16
    folder = tmp_path / "runs" / "vgg11-synthetic"
    folder.mkdir(parents=True)
    lines = [{"step": 4, "throughput/images_per_s": 1.0}, {"step": 9, "eval/loss": 0.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 8, "throughput')
    assert network.reported_steps(tmp_path) == 4


def test_a_way_stands_beside_what_is_predicted_from_the_cores_alone() -> None:
    speeds = {"alone": Series([128.0]), "one-group": Series([32.0]), "factors": Series([64.0])}
    one, factors = (network.row(setup(), way, speeds, "one-group", [9e7]) for way in ("one-group", "factors"))
    assert one.planned == 4 * 33_638_218 and one.step_s == 4.0 and one.predicted_s is not None
    # 1 s of computation and 134.6 MB, of which a 1 Gbit/s link carries 956 parts in a thousand.
    assert one.predicted_s == pytest.approx(1 + 8e-9 * one.planned / network.PAYLOAD, rel=0.01)
    assert one.of_limit == pytest.approx(8e-9 * one.planned / 4)
    assert factors.ratio.values == [2.0] and factors.predicted_s is not None and factors.predicted_s < one.predicted_s
    assert network.row(setup(), "pytorch-ddp", {**speeds, "pytorch-ddp": Series([9.0])}, "alone", []).planned is None


def test_a_machine_without_namespaces_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "missing", lambda: "network namespaces are not allowed here (EPERM)")
    monkeypatch.setattr(sys, "argv", ["network.py"])
    with pytest.raises(SystemExit, match="cannot be several hosts: network namespaces are not allowed here"):
        network.main()


def test_each_change_of_an_ablation_is_a_valid_training_that_differs_from_the_recipe(
    tmp_path: Path,
) -> None:
    configs = {}
    for change in ablation.CHANGES:
        command = ablation.command(change, 1, tmp_path, tmp_path / "runs")
        configs[change] = load("train", command[command.index("vggdist.train") + 1 :])
    plain = configs[ablation.RECIPE]
    assert plain.train.epochs == 4 and plain.run.seed == 1 and plain.optimizer.name == "muon"
    assert len({config.run.name for config in configs.values()}) == len(configs)
    settings = [(config.model, config.augment, config.optimizer, config.train) for config in configs.values()]
    assert all(one != other for one, other in itertools.combinations(settings, 2))


def ended_with(code: int) -> str:
    """A program that ends as a training does."""
    return f"""
import json, sys
from pathlib import Path
from typing import Any
folder = Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
(folder / "started").open("a").write("x")
metrics = {{"eval/top1(%)": 88.5, "eval/loss": 1}}
result = {{"state": "finished" if {code} == 0 else "stopped", "exit_code": {code}, "metrics": metrics, "seconds": 60.5}}
(folder / "result.json").write_text(json.dumps(result)); sys.exit({code})
"""


@pytest.mark.parametrize(("code", "expected"), [(75, 75), (1, 1)])
def test_an_ablation_repeats_no_finished_run_and_continues_a_stopped_one(
    code: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = [code]
    monkeypatch.setattr(
        ablation, "command", lambda *_: [sys.executable, "-c", ended_with(program[0]), str(tmp_path / "recipe-3")]
    )
    with pytest.raises(SystemExit) as ended:
        ablation.train("recipe", 3, tmp_path, tmp_path)
    assert ended.value.code == expected
    program[0] = 0
    for _ in range(2):
        ablation.train("recipe", 3, tmp_path, tmp_path)
    assert (tmp_path / "recipe-3" / "started").read_text() == "xx"
    assert ablation.metrics(tmp_path, "recipe", 3) == {"eval/top1(%)": 88.5, "eval/loss": 1.0, "seconds": 60.5}


def test_an_ablation_continues_from_the_runs_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(change: str, seed: int, root: Path, runs: Path) -> list[str]:
        return [sys.executable, "-c", ended_with(0), str(runs / ablation.name_of(change, seed))]

    monkeypatch.setattr(ablation, "command", command)
    words = ["ablation.py", "--root", "images", "--json", str(tmp_path / "runs.jsonl"), "--seeds", "1", "2", "--changes"]
    printed = []
    for folder, changes in (("here", ["recipe", "relu"]), ("elsewhere", ["recipe", "relu", "batch 500"])):
        monkeypatch.setattr(sys, "argv", [*words, *changes, "--runs", str(tmp_path / folder)])
        ablation.main()
        printed.append(capfd.readouterr().out.splitlines())
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["batch_500-1", "batch_500-2"]
    assert printed[1][:4] == printed[0] and printed[1][4].startswith("| batch 500 | 2 | 88.50 | +0.00 ± 0.00 |")
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and lines[1]["flags"] == "--model.activation relu" and {"cpu", "cores"} <= lines[1].keys()


def test_an_ablation_compares_each_change_with_the_recipe_of_the_same_seed() -> None:
    values = {"recipe": [(90.0, 0.5, 60), (91.0, 0.4, 62)], "relu": [(89.0, 0.5, 59), (90.5, 0.6, 51)]}
    names = ("eval/top1(%)", "eval/loss", "seconds")
    found = {change: {seed: dict(zip(names, run)) for seed, run in enumerate(runs)} for change, runs in values.items()}
    found["batch 500"] = {1: found["relu"][1]}
    rows = ablation.table(found).splitlines()
    assert rows[0] == "| change | n | top-1 (%) | difference | test loss | difference | time (s) | difference | flags |"
    assert rows[2] == "| recipe | 2 | 90.50 |  | 0.450 |  | 61 |  | `` |"
    assert rows[3] == "| relu | 2 | 89.75 | -0.75 ± 0.25 | 0.550 | +0.100 ± 0.100 | 55 | -6 ± 5 | `--model.activation relu` |"
    assert rows[4] == "| batch 500 | 1 | 90.50 | -0.50 | 0.600 | +0.200 | 51 | -11 | `--train.global_batch_size 500` |"
