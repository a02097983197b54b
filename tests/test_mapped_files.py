"""Shared memory that is mapped has its blocks, or cannot be made."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from app import mapped_files
from tests.support.small_disk import on_small_disk

SHARED = """
import sys
from multiprocessing import shared_memory
from app import mapped_files
mapped_files.allocate_first()
small = shared_memory.SharedMemory(create=True, size=500_000)
small.buf[:] = b"x" * 500_000
try:
    shared_memory.SharedMemory(create=True, size=2_000_000)
except OSError as error:
    print(error.strerror)
small.unlink()
"""


def test_shared_memory_for_which_there_is_no_room_is_an_error() -> None:
    ran = subprocess.run(
        on_small_disk(Path("/dev/shm"), 1, sys.executable, "-c", SHARED),
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "No space left on device\n"), ran.stderr


def test_a_file_that_is_made_longer_has_its_blocks() -> None:
    with tempfile.TemporaryFile() as file:
        mapped_files._ftruncate(file.fileno(), 300_000)
        status = os.fstat(file.fileno())
        assert status.st_blocks * 512 >= status.st_size == 300_000
        mapped_files._ftruncate(file.fileno(), mmap.PAGESIZE)
        assert os.fstat(file.fileno()).st_size == mmap.PAGESIZE


def test_a_table_of_weights_stays_sparse() -> None:
    with tempfile.TemporaryFile() as file:
        mapped_files._ftruncate(file.fileno(), 10 * 2**30)
        assert os.fstat(file.fileno()).st_blocks == 0
