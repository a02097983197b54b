"""A bucket as S3 has it, on loopback: moto's server in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support import processes
from tests.support.serving import HANGS_S, PLAIN

SECRET = "a-secret-that-no-log-shows"


def environment(endpoint: str) -> dict[str, str]:
    """What obstore reads."""
    return {
        "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint,
    }  # fmt: skip


@contextmanager
def s3() -> Iterator[str]:
    """Its address, with a bucket `files` in it.

    `S3_ENDPOINT`: of one that runs already, has that bucket, and knows these keys. Moto's own time
    for a file grows with the square of its size.
    """
    if (running := os.environ.get("S3_ENDPOINT")) is not None:
        yield running
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **environment(endpoint)},
    )  # fmt: skip
    try:
        until = time.monotonic() + HANGS_S
        while True:
            try:
                httpx.put(f"{endpoint}/files", verify=PLAIN).raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.05)
        yield endpoint
    finally:
        processes.stop(process, within_s=5)


def unfinished(endpoint: str, prefix: str) -> int:
    """Uploads in parts, below a prefix, that are neither objects nor aborted."""
    listed = httpx.get(f"{endpoint}/files?uploads", verify=PLAIN).text
    return listed.count(f"<Key>{prefix}")


def keys(endpoint: str, prefix: str) -> list[str]:
    """The objects below a prefix."""
    listed = httpx.get(f"{endpoint}/files", params={"prefix": prefix}, verify=PLAIN).text
    return [part.partition("</Key>")[0] for part in listed.split("<Key>")[1:]]
