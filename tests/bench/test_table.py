"""The table's arithmetic: medians, ratios within rounds, missing figures."""

from __future__ import annotations

from pathlib import Path

from bench import table
from bench.servers import FLOOR, OURS, RUST, THEIRS
from bench.setup import differences
from bench.table import Result, paired


def result(round: int, subject: str, cpu: float, setup: str = "tiny") -> Result:
    return Result(setup, round, subject, "64", {"cpu_us_per_token": cpu})


def row(*results: Result) -> list[str]:
    (line,) = [line for line in table.markdown(results).splitlines() if line.startswith("| 64")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_taken_within_each_round_and_then_the_median() -> None:
    ratio = paired({1: 50.0, 2: 30.0, 3: 90.0}, {1: 100.0, 2: 100.0, 3: 100.0})
    assert ratio is not None
    assert (ratio.median, ratio.least, ratio.most) == (0.5, 0.3, 0.9)


def test_a_round_with_results_of_one_server_gives_no_ratio() -> None:
    ratio = paired({1: 50.0, 2: 1.0}, {1: 100.0, 3: 1.0})
    assert ratio is not None
    assert (ratio.least, ratio.most) == (0.5, 0.5)
    assert paired({1: 50.0}, {2: 100.0}) is None


def test_a_slow_round_does_not_change_the_ratio() -> None:
    slow = 7.0
    cells = row(
        result(1, THEIRS, 100.0), result(1, OURS, 40.0), result(1, FLOOR, 20.0),
        result(2, THEIRS, 100.0 * slow), result(2, OURS, 40.0 * slow), result(2, FLOOR, 20 * slow),
    )  # fmt: skip
    assert cells[4] == "0.40 (0.40-0.40)"
    assert cells[6] == "2.00 (2.00-2.00)"


def test_each_server_is_shown_by_its_median() -> None:
    cells = row(*(result(no, THEIRS, cpu) for no, cpu in enumerate((80.0, 95.0, 300.0), 1)))
    assert cells == ["64", "CPU per token, µs", "", "95", ""]


def test_the_server_in_rust_has_no_figures_of_a_serving_side() -> None:
    results = [
        Result("tiny", 1, subject, "64", {"cpu_us_per_token": 2.0, "tree_cpu_us_per_token": cpu})
        for subject, cpu in ((RUST, 200.0), (OURS, 180.0))
    ]
    rows = [line for line in table.markdown(results).splitlines() if line.startswith("| 64")]
    assert rows == [
        "| 64 | CPU per token, µs | 2 |  |  |",
        "| 64 | CPU per token, all processes, µs | 180 | 200 | 0.90 (0.90-0.90) |",
    ]


def test_each_setup_has_its_own_table() -> None:
    text = table.markdown([result(1, OURS, 1.0), result(1, OURS, 2.0, setup="demo")])
    assert text.count("| load |") == 2


def test_results_are_read_back_and_rounds_are_numbered_on(tmp_path: Path) -> None:
    file = tmp_path / "raw.jsonl"
    assert table.read(file) == []
    results = [result(1, OURS, 1.0), result(2, OURS, 2.0), result(9, OURS, 3.0, setup="demo")]
    for each in results:
        table.write(file, each)
    assert table.read(file) == results
    assert table.next_round(table.read(file), "tiny") == 3
    assert table.next_round(table.read(file), "other") == 1


def test_differing_engine_options_are_named_and_secrets_are_not_compared() -> None:
    one = {"dtype": "auto", "port": 1, "api_key": None, "tp_size": 1, "only": 1}
    other = {"dtype": "float32", "port": 2, "api_key": "***", "tp_size": 1}
    assert differences(one, other) == ["dtype: 'auto', 'float32'"]
