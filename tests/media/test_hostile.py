"""Pictures that are none, or cost more than they say: what each costs, and how it is refused.

Each is decoded in a process of its own, as by the server: `decode` is what runs there.
"""

from __future__ import annotations

import os
import pickle
import resource
import time
import warnings
from functools import cache
from pathlib import Path

import pytest

from app.media.decode import Refused, decode
from tests.support import hostile_pictures
from tests.support.machine import allowed
from tests.support.pictures import BOUNDS

_MAX_CPU_S, _MAX_MEGABYTES = 0.1, 200
REFUSED = hostile_pictures.refused()
HARMLESS = hostile_pictures.harmless()


@cache
def decoded(name: str) -> tuple[str | None, str, float, float]:
    """The code and the words by which it is refused, seconds of processor time, MB of memory."""
    data = HARMLESS[name]() if name in HARMLESS else REFUSED[name][0]()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            warnings.simplefilter("ignore")  # as worker.py
            code, said = None, ""
            began = time.process_time()
            try:
                decode(data, BOUNDS)
            except Refused as refused:
                code, said = refused.code, str(refused)
            cpu_s = time.process_time() - began
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(write, pickle.dumps((code, said, cpu_s, max(0, most - before) / 1e6)))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer, "the process has ended"
    told: tuple[str | None, str, float, float] = pickle.loads(answer)
    return told


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_by_name(name: str) -> None:
    code, said, *_ = decoded(name)
    assert code == REFUSED[name][1]
    assert not any(part in said for part in ("0x", "<", "/", "PIL"))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_its_pixels_do_not_need_is_passed_over(name: str) -> None:
    assert decoded(name)[0] is None


@pytest.mark.parametrize("name", [*REFUSED, *HARMLESS])
def test_none_costs_more_than_a_tenth_of_a_second_and_200_megabytes(name: str) -> None:
    *_, cpu_s, megabytes = decoded(name)
    print(f"{name}: {cpu_s * 1e3:.1f} ms, {megabytes:.1f} MB")
    assert cpu_s < allowed(_MAX_CPU_S)
    assert megabytes < _MAX_MEGABYTES
