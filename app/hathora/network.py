"""This server's place in a network endpoint group of Google Cloud: taken and given back.

    join    locate ─ list ─ attach ─ wait ─ list
    leave   (locate ─ list) ─ detach ─ wait ─ list        in brackets: unless it joined before

Everything here blocks: it runs in a thread, one call at a time.
"""

from __future__ import annotations

import threading

import msgspec

from app.errors import ConfigError
from app.hathora.calls import CallFailed, Deadline, NetworkFailed, doing
from app.hathora.compute import Compute, Operation
from app.hathora.key import read_key
from app.hathora.target import Locator, Target
from app.logs.setup import log
from app.settings.catalogue import Settings

__all__ = ["NetworkFailed", "Place", "Registration"]


class Place(msgspec.Struct, frozen=True):
    """Where this server is registered, as /health shows it."""

    group: str
    scope: str
    location: str | None
    """Zone or region; None for a global group."""
    endpoint: str
    """`vm-1:8000`, `name:8000`, `1.2.3.4:8000`."""
    project: str


class Registration:
    """One endpoint in one group. `place` is known once machine and group were found.

    Raises ConfigError, which never shows the key.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.gcp_key is not None
        self._credentials, named = read_key(settings.gcp_key.get_secret_value())
        self._project = settings.gcp_project or named
        if not self._project:
            raise ConfigError("GCP_SERVICE_ACCOUNT_KEY_BASE64 names no project; set GCP_PROJECT")
        self._settings = settings
        self._locator = Locator(settings, self._project)
        self._compute: Compute | None = None
        self._target: Target | None = None
        self._attaching: Operation | None = None
        self._perhaps_attached = False
        self.place: Place | None = None

    def load(self) -> None:
        """Import the client library, which takes seconds. Raises NetworkFailed."""
        self._client()

    def join(self, stop: threading.Event) -> Place:
        """Attach the endpoint and see it listed; already attached is success.

        Raises NetworkFailed; also once `stop` is set, between two calls.
        """
        compute = self._client()
        deadline = Deadline(self._settings.gcp_timeout_s, stop)
        # What was attached before is what leave() has to detach, whatever the name means by now.
        target = self._target if self._perhaps_attached else None
        target = target or self._locator.locate(compute, deadline)
        place = self._found(target)
        with doing(f"cannot attach {place.endpoint} to {place.group}"):
            if _is_listed(compute, target, deadline):
                log.debug("endpoint was attached already", **msgspec.to_builtins(place))
            else:
                deadline.retry("attach", lambda: self._attach(compute, target, deadline))
                deadline.retry("confirm", lambda: _confirm(compute, target, deadline, listed=True))
                log.info("endpoint attached", **msgspec.to_builtins(place))
        self._perhaps_attached, self._attaching = True, None
        return place

    def leave(self) -> bool:
        """Detach the endpoint and see it gone. True if it was attached; already gone is success.

        Also removes what an earlier process of this name and port left. Raises NetworkFailed.
        """
        compute = self._client()
        deadline = Deadline(self._settings.gcp_timeout_s)
        target = self._target or self._locator.locate(compute, deadline)
        place = self._found(target)
        with doing(f"cannot detach {place.endpoint} from {place.group}"):
            self._let_attach_end(compute, deadline.half())
            if not self._perhaps_attached and not _is_listed(compute, target, deadline):
                return False
            removed = deadline.retry("detach", lambda: _detach(compute, target, deadline))
            deadline.retry("confirm", lambda: _confirm(compute, target, deadline, listed=False))
        self._perhaps_attached = False
        text = "endpoint detached" if removed else "endpoint was gone already"
        log.info(text, **msgspec.to_builtins(place))
        return removed

    def _client(self) -> Compute:
        if self._compute is None:
            from google.auth.exceptions import GoogleAuthError

            try:
                self._compute = Compute(
                    self._credentials,
                    project=self._project,
                    scope=self._settings.gcp_neg_scope,
                    api_endpoint=self._settings.gcp_api_endpoint,
                )
            except GoogleAuthError as error:  # wrong values in the library's own variables
                text = f"Google's client library cannot be set up: {error}"
                raise NetworkFailed(text, permanent=True) from error
        return self._compute

    def _found(self, target: Target) -> Place:
        self._target = target
        group, endpoint = target
        scope = self._settings.gcp_neg_scope
        self.place = Place(group.name, scope, group.location, str(endpoint), self._project)
        return self.place

    def _attach(self, compute: Compute, target: Target, deadline: Deadline) -> None:
        self._perhaps_attached = True
        try:
            self._attaching = compute.attach(*target, deadline)
            compute.wait(self._attaching, deadline)
        except CallFailed as error:
            if not error.conflict:
                self._perhaps_attached = error.status is None  # else it was refused
                raise
            if not _is_listed(compute, target, deadline):
                raise _once_more(error) from error

    def _let_attach_end(self, compute: Compute, deadline: Deadline) -> None:
        """A join that was cut may have left a change that is still being made."""
        if self._attaching is not None:
            try:
                compute.wait(self._attaching, deadline)
            except CallFailed as error:
                log.info("an earlier attachment has not succeeded", reason=str(error))
            self._attaching = None


def _detach(compute: Compute, target: Target, deadline: Deadline) -> bool:
    try:
        compute.wait(compute.detach(*target, deadline), deadline)
    except CallFailed as error:
        if not (error.not_found or error.conflict):
            raise
        if _is_listed(compute, target, deadline):
            raise _once_more(error) from error
        return False
    return True


def _confirm(compute: Compute, target: Target, deadline: Deadline, *, listed: bool) -> None:
    if _is_listed(compute, target, deadline) is not listed:
        text = "done, but not listed yet" if listed else "done, but still listed"
        raise CallFailed(text, transient=True)


def _is_listed(compute: Compute, target: Target, deadline: Deadline) -> bool:
    try:
        return target.endpoint in compute.list_endpoints(target.group, deadline)
    except CallFailed as error:
        if error.not_found:  # a group that is gone has no endpoints
            return False
        raise


def _once_more(error: CallFailed) -> CallFailed:
    """A conflict that the list does not explain is worth another try; other errors are not."""
    return CallFailed(str(error), transient=error.status == 409)
