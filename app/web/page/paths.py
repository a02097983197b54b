"""Where the page's parts are."""

from __future__ import annotations

EVENTS = "/ui/events"
DOCS = "/docs"
ICON = "/favicon.ico"
BASE = "/v1"
"""What clients are given, and people click at: there is nothing, but for them the page."""
OPEN_PREFIX = "/ui/files/"
"""Below it there is nothing but files of the program, which need no key."""
FILES_ROUTE = OPEN_PREFIX + "{folder}/{name:path}"
