"""Files that settings are read from: bounded, and what is wrong with one is one line.

A file is a regular one (another may never end, or never begin), UTF-8, and at most 1 MB.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from app.errors import ConfigError
from app.settings.json_text import DEEPEST

MOST_BYTES = 1024 * 1024
_MOST_VALUES = 20_000
_YAML_TYPE = "tag:yaml.org,2002:"
_TRUSTS = "ENV_FILE="
"""The one setting with a file that is read without being named."""
_QUOTED = re.compile(r"'(?!<)[^']{2,}'|\"[^\"]{2,}\"")
"""In a message of the YAML parser's: words of the file; `'<scalar>'` is a word of its own."""


def read_text(
    path: Path, origin: str, *, most_bytes: int = MOST_BYTES, trusted: bool = True
) -> str:
    """The text of a file. Raises ConfigError that begins with `origin`.

    `trusted`: as `read_bytes` has it.
    """
    content = read_bytes(path, origin, most_bytes=most_bytes, trusted=trusted)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: {path} is not UTF-8, at byte {error.start}") from None


def read_bytes(
    path: Path, origin: str, *, most_bytes: int = MOST_BYTES, trusted: bool = True
) -> bytes:
    """`trusted`: the operator has named it. Another must be no link, and no other user's to write:
    the file that is read is the one that is looked at."""
    try:
        # Without O_NONBLOCK the start would wait for the other end of a pipe.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags if trusted else flags | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{origin}: {path} is no file")
            if not trusted and (why := _untrusted(status, path)) is not None:
                raise ConfigError(f"{origin}: {why}")
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        if not trusted and getattr(error, "errno", None) == errno.ELOOP:
            reason = f"it is a link; {_TRUSTS}{path} trusts it"
        raise ConfigError(f"{origin}: {path} cannot be read: {reason}") from None
    if len(content) > most_bytes:
        size = f"{most_bytes >> 20} MB" if most_bytes >= 2**20 else f"{most_bytes >> 10} kB"
        raise ConfigError(f"{origin}: {path} is larger than {size}")
    return content


def _untrusted(status: os.stat_result, path: Path) -> str | None:
    """Why a file that no setting names may not be the operator's, and what to do."""
    if status.st_mode & stat.S_IWOTH:
        return f"every user can change it: chmod go-w {path}, or {_TRUSTS}{path} trusts it"
    if status.st_mode & stat.S_IWGRP and not _is_this_users_alone(status.st_gid):
        return f"its group can change it: chmod go-w {path}, or {_TRUSTS}{path} trusts it"
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user; {_TRUSTS}{path} trusts it"
    return None


def _is_this_users_alone(gid: int) -> bool:
    """A group as Debian and Ubuntu make one for each user; with it come files that it can write."""
    if os.geteuid() == 0:
        return False
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    if (user.pw_gid, user.pw_name) != (gid, group.gr_name):
        return False
    others = {each.pw_name for each in pwd.getpwall() if each.pw_gid == gid}
    return {*group.gr_mem, *others} <= {user.pw_name}


def read_mapping(path: Path, origin: str) -> dict[str, Any]:
    """Names and values of a YAML file, or of a TOML file if its name ends with `.toml`. Scalars are
    text, as in the environment; null is left out. Raises ConfigError."""
    text = read_text(path, origin)
    content = _toml(text, path, origin) if path.suffix == ".toml" else _yaml(text, path, origin)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{origin}: {path} must have names and their values")
    _check_shape(content, path, origin)
    try:
        return {str(name): as_text(value) for name, value in content.items() if value is not None}
    except ValueError as error:  # an integer of more digits than Python writes
        raise ConfigError(f"{origin}: {path}: {_in_short(error)}") from None


def path_of(text: str, origin: str) -> Path:
    """With `~` as the user's home. Raises ConfigError if there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{origin}: {text[:200]}: {error}") from None


def as_text(value: Any) -> Any:
    """A value as the environment would have it; a list stays one."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return json.dumps(value, default=str)
        case list() if any(isinstance(each, dict | list) for each in value):
            return json.dumps(value, default=str)
        case list():
            return [as_text(each) for each in value if each is not None]
        case _:
            return str(value)


def _toml(text: str, path: Path, origin: str) -> Any:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: {path} is not TOML: {_in_short(error)}") from None


def _yaml(text: str, path: Path, origin: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes no aliases, of which few lines can make a billion values, and no name twice."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(None, None, "aliases (*) are not taken", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set[str]()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise yaml.YAMLError(f"it has {key.value[:60]!r} twice; keep one")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

        def refuse(self, node: Any) -> Any:
            raise yaml.MarkedYAMLError(None, None, "a tag (!) is not taken", node.start_mark)

    Loader.add_constructor(None, Loader.refuse)
    if text.count("\n") > _MOST_VALUES:
        raise ConfigError(f"{origin}: {path} has more than {_MOST_VALUES:,} lines")
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        _keep_as_written(root)
        return None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{origin}: {path} is not YAML: {_where(error)}") from None
    except yaml.reader.ReaderError as error:
        at = f"{error.reason}, at character {error.position}"
        raise ConfigError(f"{origin}: {path} is not YAML: {at}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{origin}: {path} is not YAML: {_in_short(error)}") from None
    except ValueError:  # such as `!!int x`; its text may be a secret
        raise ConfigError(f"{origin}: {path} is not YAML: a value is not of its type") from None


def _where(error: Any) -> str:
    """What the parser says and where, and nothing of the file, in which secrets may be."""
    problem = _QUOTED.sub("(...)", error.problem or error.context or "it cannot be read")
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"{problem}, line {mark.line + 1}, column {mark.column + 1}"


def _keep_as_written(root: Any) -> None:
    """Have scalars be the text that stands there: as numbers, 012345 would be 5349, and 1.10 1.1.

    Inside of a value that is a mapping, such as `engine_args`, what JSON has as a number stays one,
    and what YAML has as true or false."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if node is None or node.id == "scalar":
            if node is not None and node.style is None and _is_text(node, typed=depth > 1):
                node.tag = _YAML_TYPE + "str"
        elif node.id == "mapping":
            waiting += [(key, 0) for key, _ in node.value]
            waiting += [(value, depth + 1) for _, value in node.value]
        else:
            waiting += [(each, depth) for each in node.value]


def _is_text(node: Any, *, typed: bool) -> bool:
    """`typed`: it may be a number, or true or false."""
    kind = node.tag.removeprefix(_YAML_TYPE)
    if kind == node.tag or kind == "null":
        return False
    if not typed or kind not in ("bool", "int", "float"):
        return True
    if kind == "bool":
        return False
    try:
        json.loads(node.value)
    except ValueError:
        return True
    return False


def _check_shape(content: Any, path: Path, origin: str) -> None:
    values, waiting = 0, [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if depth > DEEPEST or values > _MOST_VALUES:
            what = f"more than {DEEPEST} levels" if depth > DEEPEST else "too many values"
            raise ConfigError(f"{origin}: {path} has {what}")
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in inner]


def _in_short(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split())[:200]
