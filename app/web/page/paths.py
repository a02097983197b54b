"""Where the page's parts are."""

from __future__ import annotations

EVENTS = "/ui/events"
DOCS = "/docs"
ICON = "/favicon.ico"
OPEN_PREFIX = "/ui/files/"
"""Below it there is nothing but files of the program, which need no key."""
FILES_ROUTE = OPEN_PREFIX + "{folder}/{name:path}"
