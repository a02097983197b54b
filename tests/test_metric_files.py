"""A full disk costs series of the metrics, and nothing else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import mmap_dict

from app import metric_files
from app.metric_files import AllocatedFile
from tests.support.serving import HANGS_S
from tests.support.small_disk import on_small_disk

ROOT = Path(__file__).parents[1]

FULL = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
from app import metrics
from app.lifecycle import Lifecycle
from app.stats import Gauges
class Source:
    def gauges(self):
        from app.metric_files import series_lost
        return Gauges(0, 0, 0.0, 0.0, 0.0, 0.0, 0, series_lost())
    def scraped(self): pass
def count(times):
    for no in range(5000):
        metrics.REQUESTS.labels(f"/{no}", "GET", "200").inc(times)
count(1)
filler = folder / "filler"
try:
    with filler.open("wb", buffering=0) as file:
        while True: file.write(bytes(4096))
except OSError: pass
for no in range(5000, 20000):
    metrics.REQUESTS.labels(f"/{no}", "GET", "200").inc()
count(2)
def scrape():
    text = metrics.Metrics(Lifecycle(), Source()).scrape().decode().splitlines()
    (lost,) = [line.split()[1] for line in text if line.startswith("serve_metric_series_lost ")]
    return text, float(lost)
text, lost = scrape()
assert 'serve_requests_total{code="200",method="GET",route="/4999"} 3.0' in text
assert lost > 10000, lost
filler.unlink()
import app.metric_files
for file in app.metric_files._files: file._try_again_at = 0.0
for no in range(5000, 20000):
    metrics.REQUESTS.labels(f"/{no}", "GET", "200").inc()
text, lost = scrape()
assert 'serve_requests_total{code="200",method="GET",route="/19999"} 2.0' in text
assert lost == 0, lost
print("outlived it")
"""


def test_a_process_outlives_a_full_disk_and_its_series_come_back(tmp_path: Path) -> None:
    command = on_small_disk(tmp_path, 6, sys.executable, "-c", FULL, str(tmp_path))
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S)
    assert (ran.returncode, ran.stdout) == (0, "outlived it\n"), ran.stderr


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the disk full, or empty again."""
    allocate = os.posix_fallocate

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(full: bool) -> None:
        monkeypatch.setattr(os, "posix_fallocate", no_room if full else allocate)

    monkeypatch.setattr(metric_files, "_TRY_AGAIN_S", 0.0)
    return fill


def written(path: Path) -> dict[str, float]:
    values = mmap_dict.MmapedDict.read_all_values_from_file(str(path))
    return {key: value for key, value, *_ in values}


def test_a_file_has_all_its_blocks(tmp_path: Path) -> None:
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    for no in range(2000):
        file.write_value(f"series {no} {'x' * 100}", 1.0, 0.0)
    status = (tmp_path / "counter_1.db").stat()
    assert status.st_size >= 2000 * 100
    assert status.st_blocks * 512 >= status.st_size
    file.close()


def test_without_room_for_a_file_there_is_none(
    tmp_path: Path, disk: Callable[[bool], None]
) -> None:
    disk(True)
    file = AllocatedFile(str(path := tmp_path / "counter_1.db"))
    assert file.read_value("a") == (0.0, 0.0)
    file.write_value("a", 1.0, 0.0)
    # A scrape reads every file that it finds, and would fail on an empty one.
    assert list(tmp_path.iterdir()) == []
    assert file.lost == {"a"}
    disk(False)
    file.write_value("a", 2.0, 0.0)
    assert written(path) == {"a": 2.0}
    assert file.lost == set()
    file.close()


def test_series_that_are_in_the_file_go_on_without_room_for_others(
    tmp_path: Path, disk: Callable[[bool], None]
) -> None:
    file = AllocatedFile(str(path := tmp_path / "counter_1.db"))
    file.write_value("a", 1.0, 0.0)
    disk(True)
    for no in range(5000):
        file.write_value(f"more {no}", 1.0, 0.0)
    file.write_value("a", 2.0, 0.0)
    assert written(path)["a"] == 2.0
    assert len(file.lost) + len(written(path)) == 5001
    assert metric_files.series_lost() >= len(file.lost) > 1000
    file.close()


def test_a_full_disk_is_tried_now_and_then(
    tmp_path: Path, disk: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_files, "_TRY_AGAIN_S", 1000.0)
    disk(True)
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    file.write_value("a", 1.0, 0.0)
    disk(False)
    file.write_value("a", 2.0, 0.0)
    assert file.lost == {"a"}
    file.close()


SUMS = """
import os, sys
from app import metric_files
from app.metrics import REQUESTS, TTFT
for _ in range(int(sys.argv[1])):
    REQUESTS.labels("/v1/x", "POST", "200").inc()
    TTFT.observe(0.03)
"""


def test_the_sums_are_those_of_a_scrape_over_all_processes(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for count in (2, 3):
        subprocess.run([sys.executable, "-c", SUMS, str(count)], env=environment, check=True)
    read = """
from app import metric_files, metrics
sums = metric_files.sums("serve_")
print(sums["serve_requests_total", ("200", "POST", "/v1/x")])
print(sums["serve_time_to_first_token_seconds_bucket", ("0.05",)])
print(round(sums["serve_time_to_first_token_seconds_sum", ()], 3))
print(all(name.startswith("serve_") for name, _ in sums), metric_files.sums("sglang:"))
"""
    done = subprocess.run(
        [sys.executable, "-c", read], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:4] == [
        "5.0",
        "5.0",
        "0.15",
        "True defaultdict(<class 'float'>, {})",
    ]
