"""Why a schema or grammar cannot be enforced."""

from __future__ import annotations


class Refused(ValueError):
    """`str()` is a clause about the schema or grammar, in our own words: "it ..."."""
