"""Shared memory is allocated before it is mapped.

A file that is only made longer has no blocks: in a full /dev/shm the first write to a mapped page
of it ends the process with SIGBUS. Python's shared memory and SGLang's load snapshots are made
longer by `os.ftruncate`; allocating raises OSError instead.
"""

from __future__ import annotations

import errno
import os

_ALLOCATED_BYTES = 256 * 2**20
"""Longer files are tables of weights, which SGLang wants sparse."""
_NOT_POSSIBLE_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV)
_truncate = os.ftruncate


def allocate_first() -> None:
    """In this process, from now on."""
    os.ftruncate = _ftruncate


def _ftruncate(fd: int, length: int) -> None:
    size = os.fstat(fd).st_size
    if not 0 < length - size <= _ALLOCATED_BYTES:
        _truncate(fd, length)
        return
    try:
        os.posix_fallocate(fd, size, length - size)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE_HERE:
            raise
        _truncate(fd, length)
