"""Registering this server's endpoint in a network endpoint group of Google Cloud.

    join    locate ─ list ─ attach ─ wait ─ list
    leave   (locate ─ list) ─ detach ─ wait ─ list        in brackets: skipped if it joined before

Everything here blocks: it runs in a thread, one call at a time.
"""

from __future__ import annotations

import threading

import msgspec

from app.errors import ConfigError
from app.hathora.compute import Compute, Operation
from app.hathora.deadline import Deadline
from app.hathora.failures import CallFailed, NetworkFailed, network_failure
from app.hathora.key import read_key
from app.hathora.target import Locator, Target
from app.logs.setup import log
from app.settings.catalogue import Settings


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
    """One endpoint in one group. `place` is None until machine and group have been found.

    The constructor raises ConfigError, whose text never shows the key.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.gcp_key is not None
        self._credentials, key_project = read_key(settings.gcp_key.get_secret_value())
        self._project = settings.gcp_project or key_project
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
        """Attach the endpoint and wait until it is listed; already attached is success.

        Raises NetworkFailed, also before the next call once `stop` is set.
        """
        compute = self._client()
        deadline = Deadline(self._settings.gcp_timeout_s, stop)
        # leave() must detach exactly what was attached, even if the name resolves differently now.
        target = self._target if self._perhaps_attached else None
        target = target or self._locator.locate(compute, deadline)
        place = self._remember(target)
        with network_failure(f"cannot attach {place.endpoint} to {place.group}"):
            if _is_listed(compute, target, deadline):
                log.debug("endpoint was attached already", **msgspec.to_builtins(place))
            else:
                deadline.retry("attach", lambda: self._attach(compute, target, deadline))
                deadline.retry("confirm", lambda: _confirm(compute, target, deadline, listed=True))
                log.info("endpoint attached", **msgspec.to_builtins(place))
        self._perhaps_attached, self._attaching = True, None
        return place

    def leave(self) -> bool:
        """Detach the endpoint and wait until it is no longer listed.

        Returns whether it was attached; already gone is success. Also removes what an earlier
        process of this name and port left attached. Raises NetworkFailed.
        """
        compute = self._client()
        deadline = Deadline(self._settings.gcp_timeout_s)
        target = self._target or self._locator.locate(compute, deadline)
        place = self._remember(target)
        with network_failure(f"cannot detach {place.endpoint} from {place.group}"):
            self._wait_for_attach(compute, deadline.half())
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
            except GoogleAuthError as error:  # a bad value in one of the library's own variables
                text = f"Google's client library cannot be set up: {error}"
                raise NetworkFailed(text, permanent=True) from error
        return self._compute

    def _remember(self, target: Target) -> Place:
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
                self._perhaps_attached = error.status is None  # with a status, the API refused it
                raise
            if not _is_listed(compute, target, deadline):
                raise _retry_conflict(error) from error

    def _wait_for_attach(self, compute: Compute, deadline: Deadline) -> None:
        """Wait for an attachment that an interrupted join() left in progress."""
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
            raise _retry_conflict(error) from error
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
        if error.not_found:  # a deleted group has no endpoints
            return False
        raise


def _retry_conflict(error: CallFailed) -> CallFailed:
    """The error to raise where the list of endpoints does not explain `error`.

    Only a conflict is worth another attempt.
    """
    return CallFailed(str(error), transient=error.status == 409)
