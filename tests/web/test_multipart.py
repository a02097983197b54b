"""A form that is read as it comes: however it is cut, the same file and fields."""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.web.multipart import OVERHEAD_BYTES, Form

BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, filename: str | None = None, more: str = "") -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{more}\r\n'
    return head.encode() + content + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read(data: bytes, cuts: list[int], content_type: str = TYPE) -> tuple[bytes, Form]:
    form = Form(content_type, file_field="file")
    file, edges = io.BytesIO(), sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        for piece in form.feed(data[start:end]):
            file.write(piece)
    form.close()
    return file.getvalue(), form


PIECES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"-", b"x", b"\0", BOUNDARY.encode(),
     f"\r\n--{BOUNDARY}"[:-1].encode(), f"--{BOUNDARY}".encode()]
)  # fmt: skip


@given(
    st.lists(PIECES | st.binary(max_size=50), max_size=20),
    st.lists(st.integers(0, 10**6), max_size=30),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same_file(pieces: list[bytes], cuts: list[int], last: bool) -> None:
    content = b"".join(pieces)
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + content:
        return  # then it is a boundary
    parts = [part("purpose", b"batch"), part("file", content, "a.txt", "Content-Type: x/y\r\n")]
    file, form = read(body(*(parts if last else reversed(parts))), cuts)
    assert file == content
    assert (form.fields, form.filename) == ({"purpose": "batch"}, "a.txt")


def test_every_single_cut_gives_the_same_file() -> None:
    content = f"a\r\n--{BOUNDARY[:-1]}\r\n\r\n--".encode()
    data = body(part("file", content, "a"), part("purpose", b"batch"))
    for cut in range(len(data)):
        assert read(data, [cut])[0] == content
    assert read(data, list(range(len(data))))[0] == content


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(noise: bytes, cuts: list[int]) -> None:
    for data in (noise, part("file", noise, "a"), body(part("file", b"x", "a") + noise)):
        with suppress(InvalidRequest):
            read(data, cuts)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.txt", "a.txt"), ("é.txt", "é.txt"), ("a%22b", 'a"b'), ('a\\"b', 'a"b'),
        ("a;b=c.txt", "a;b=c.txt"), ("C:\\x\\y.txt", "y.txt"),
    ],
)  # fmt: skip
def test_names_are_read_as_browsers_and_clients_write_them(name: str, shown: str) -> None:
    assert read(body(part("file", b"x", name)), [])[1].filename == shown


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends before"),
        (body(part("file", b"x", "a"))[:-8], "ends before"),
        (body(), "'file'"),
        (body(part("purpose", b"batch")), "'file'"),
        (b"nonsense", "is not valid"),
        (body(part("file", b"x", "a"), part("file", b"y", "b")), "one file"),
        (body(part("file", b"x")), "filename"),
        (body(part("purpose", b"x" * 5000)), "4096 bytes"),
        (body(*[part(f"p{no}", b"") for no in range(40)]), "32 parts"),
        (body(part("file", b"x", "a", "X: y\r\n" * 20)), "header"),
        (body(part("file", b"x", "a", f"X: {'y' * 9000}\r\n")), "header"),
        (body(part("file", b"x", "a", "Content-Transfer-Encoding: base64\r\n")), "encoded"),
        (f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(), "Content-Disposition"),
        (body(part("file", b"x", "a")) + b"x" * OVERHEAD_BYTES, "beside its file"),
        (b"\r\n" * OVERHEAD_BYTES, "beside its file"),
    ],
)
def test_what_is_malformed_is_refused_by_its_fault(data: bytes, problem: str) -> None:
    for step in (10**9, 4096, 7) if len(data) < 10**5 else (10**9, 65_536):
        with pytest.raises(InvalidRequest, match=problem):
            read(data, list(range(0, len(data), step)))


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
     "multipart/mixed; boundary=x", f"multipart/form-data; boundary={'x' * 300}"],
)  # fmt: skip
def test_other_types_are_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match=r"body (must be multipart|has a boundary)"):
        Form(content_type, file_field="file")
