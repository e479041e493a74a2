"""The ranks of a host hold a data set once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.images import content_digest
from tests.rank_pool import call
from vggdist.config.load import load
from vggdist.data.dataset import DataSet
from vggdist.data.dataset import load as load_data
from vggdist.data.statistics import statistics, value_counts

# No array's size is a multiple of what they are aligned to.
FLAGS = ["--data.name", "synthetic", "--data.synthetic_samples", "509", "--data.image_size", "15"]


@pytest.fixture(scope="module")
def alone() -> DataSet:
    """The data set as one process loads it."""
    return load_data(load("train", FLAGS).data, 0)


@pytest.fixture(scope="module")
def left_before() -> set[Path]:
    return set(Path("/dev/shm").glob("*vggdist*"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, left_before: set[Path]) -> list[dict[str, Any]]:
    """What each of three ranks holds, for several ways to hold data."""
    return call("horovodrun --gloo", 3, "memory_of_the_host", tmp_path_factory.mktemp("host"), flags=FLAGS)


def files(ranks: list[dict[str, Any]], way: str) -> list[str | None]:
    return [rank[way]["file"] for rank in ranks]


@pytest.mark.parametrize("way", ["first", "joined", "not mapped", "not shared", "two hosts"])
def test_all_ranks_hold_what_one_process_loads(ranks: list[dict[str, Any]], alone: DataSet, way: str) -> None:
    assert [rank[way]["content"] for rank in ranks] == [content_digest(alone)] * 3


def test_one_rank_loads_and_all_map_the_same_file_read_only(ranks: list[dict[str, Any]]) -> None:
    assert [rank["first"]["loads"] for rank in ranks] == [1, 0, 0]
    assert len(set(files(ranks, "first"))) == 1 and None not in files(ranks, "first")
    assert not any(rank["first"]["writeable"] for rank in ranks)


def test_ranks_that_join_map_what_an_older_one_holds(ranks: list[dict[str, Any]]) -> None:
    assert len(set(files(ranks, "joined"))) == 1 and None not in files(ranks, "joined")


def test_a_rank_that_may_not_map_the_file_loads_for_itself(ranks: list[dict[str, Any]]) -> None:
    first, second, third = files(ranks, "not mapped")
    assert second is None and first == third is not None


def test_where_memory_cannot_be_shared_each_rank_loads_for_itself(ranks: list[dict[str, Any]]) -> None:
    assert files(ranks, "not shared") == [None, None, None]


def test_each_host_loads_and_one_rank_alone_needs_no_file(ranks: list[dict[str, Any]]) -> None:
    first, second, third = files(ranks, "two hosts")
    assert second is None and first == third is not None


def test_what_one_rank_cannot_load_all_ranks_say_alike(ranks: list[dict[str, Any]]) -> None:
    assert [rank["failed"]["error"] for rank in ranks] == ["data_batch_3.bin has 5 bytes"] * 3


def test_the_file_has_no_name_that_could_be_left_behind(ranks: list[dict[str, Any]], left_before: set[Path]) -> None:
    assert all(file is not None and file.endswith("(deleted)") for file in files(ranks, "first"))
    assert set(Path("/dev/shm").glob("*vggdist*")) == left_before


def test_statistics_that_the_ranks_count_together_are_those_of_one(ranks: list[dict[str, Any]], alone: DataSet) -> None:
    expected = [list(values) for values in statistics(value_counts(alone.train))]
    assert [rank["statistics"] for rank in ranks] == [expected] * 3
