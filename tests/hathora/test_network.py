"""Joining and leaving a group: which calls in which order, and the text of each failure."""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.hathora import target
from app.hathora.failures import NetworkFailed
from app.hathora.network import Place, Registration
from app.settings.load import load
from tests.support.compute import GROUP, PROJECT, ZONE, FakeCompute, NoPause

ENDPOINT = {"instance": "vm-1", "ipAddress": "10.0.0.2", "port": 8000}
PLACE = Place(GROUP, "zonal", ZONE, "vm-1:8000", PROJECT)
LOCATED = ["aggregatedList", "get"]
ATTACHED = ["attachNetworkEndpoints", "operation", "listNetworkEndpoints"]
DETACHED = ["detachNetworkEndpoints", "operation", "listNetworkEndpoints"]


def registration(fake: FakeCompute, **settings: str) -> Registration:
    return Registration(load({}, fake.environ(**settings)).settings)


def join(registration: Registration) -> Place:
    return registration.join(NoPause())


def test_joining_and_leaving_make_these_calls_in_this_order(fake: FakeCompute) -> None:
    ours = registration(fake)
    assert ours.place is None
    assert join(ours) == PLACE == ours.place
    assert fake.names == [*LOCATED, "listNetworkEndpoints", *ATTACHED]
    assert fake.endpoints[GROUP] == [ENDPOINT]
    fake.calls.clear()
    assert ours.leave() is True
    assert fake.names == DETACHED
    assert fake.endpoints[GROUP] == []


def test_joining_and_leaving_can_be_repeated(fake: FakeCompute) -> None:
    ours = registration(fake)
    assert [join(ours), join(ours)] == [PLACE, PLACE]
    assert [ours.leave(), ours.leave()] == [True, False]
    join(ours)
    assert fake.endpoints[GROUP] == [ENDPOINT]
    assert len({call.query["requestId"] for call in fake.calls if "requestId" in call.query}) == 3


def test_other_endpoints_are_not_touched(fake: FakeCompute) -> None:
    others = [{**ENDPOINT, "port": 8001}, {**ENDPOINT, "instance": "vm-2"}]
    fake.endpoints[GROUP] += others
    ours = registration(fake)
    join(ours)
    ours.leave()
    assert fake.endpoints[GROUP] == others


def test_joining_an_attached_endpoint_changes_nothing(fake: FakeCompute) -> None:
    fake.endpoints[GROUP].append(ENDPOINT)
    ours = registration(fake)
    assert join(ours) == PLACE
    assert fake.names == [*LOCATED, "listNetworkEndpoints"]
    assert ours.leave() is True


def test_an_endpoint_of_an_earlier_process_is_removed(fake: FakeCompute) -> None:
    fake.endpoints[GROUP].append(ENDPOINT)
    ours = registration(fake)
    ours.load()
    assert fake.calls == []
    assert ours.leave() is True
    assert fake.names == [*LOCATED, "listNetworkEndpoints", *DETACHED]
    assert ours.place == PLACE


def test_nothing_is_detached_where_nothing_is_attached(fake: FakeCompute) -> None:
    assert registration(fake).leave() is False
    assert fake.names == [*LOCATED, "listNetworkEndpoints"]


@pytest.mark.parametrize("status", [400, 409])
def test_an_attachment_refused_as_existing_succeeds_if_it_is_listed(
    fake: FakeCompute, status: int
) -> None:
    fake.fail_next("attachNetworkEndpoints", status, "The endpoint already exists", effect=True)
    assert join(registration(fake)) == PLACE
    assert len(fake.named("attachNetworkEndpoints")) == 1
    assert "operation" not in fake.names


def test_a_conflict_without_a_listed_endpoint_is_retried(fake: FakeCompute) -> None:
    fake.fail_next("attachNetworkEndpoints", 409, "another change is being made")
    assert join(registration(fake)) == PLACE
    ids = [call.query["requestId"] for call in fake.named("attachNetworkEndpoints")]
    assert len(set(ids)) == len(ids) == 2


def test_a_lost_answer_attaches_nothing_twice(fake: FakeCompute) -> None:
    fake.fail_next("attachNetworkEndpoints", 503, effect=True)
    join(registration(fake))
    assert fake.endpoints[GROUP] == [ENDPOINT]


def test_a_transient_failure_of_an_operation_starts_a_new_one(fake: FakeCompute) -> None:
    fake.next_operation(error=("INTERNAL_ERROR", "try later", 503))
    assert join(registration(fake)) == PLACE
    ids = [call.query["requestId"] for call in fake.named("attachNetworkEndpoints")]
    assert len(set(ids)) == len(ids) == 2


def test_a_permanent_failure_of_an_operation_is_reported(fake: FakeCompute) -> None:
    fake.next_operation(error=("INVALID_USAGE", "the group is full", 400))
    ours = registration(fake)
    with pytest.raises(NetworkFailed, match="INVALID_USAGE: the group is full") as caught:
        join(ours)
    assert str(caught.value).startswith(f"cannot attach vm-1:8000 to {GROUP}: ")
    assert ours.leave() is False


@pytest.mark.parametrize(
    ("status", "message", "permanent"),
    [
        (400, "Specified IP address 10.0.0.2 doesn't belong to the (sub)network", True),
        (403, "Required 'compute.networkEndpointGroups.attachNetworkEndpoints' permission", True),
        (412, "Constraint violated for now", False),
    ],
)
def test_a_refusal_says_why_and_whether_it_is_final(
    fake: FakeCompute, status: int, message: str, permanent: bool
) -> None:
    fake.fail_next("attachNetworkEndpoints", status, message)
    with pytest.raises(NetworkFailed) as caught:
        join(registration(fake))
    assert str(caught.value) == f"cannot attach vm-1:8000 to {GROUP}: {status} {message}"
    assert caught.value.permanent is permanent


def test_a_missing_group_is_a_permanent_failure_with_a_hint(fake: FakeCompute) -> None:
    with pytest.raises(
        NetworkFailed, match=r"group gone in us-west1-b of proj.*GCP_NEG_NAME"
    ) as at:
        join(registration(fake, GCP_NEG_NAME="gone"))
    assert at.value.permanent


def test_a_rejected_key_is_a_permanent_failure_with_a_hint(fake: FakeCompute) -> None:
    fake.fail_next("aggregatedList", 401, "invalid credentials", times=9)
    with pytest.raises(NetworkFailed, match=r"the key was deleted or disabled, or .* clock") as at:
        join(registration(fake))
    assert at.value.permanent


@pytest.mark.parametrize("answer", ["404", "400", "operation"])
def test_detaching_an_endpoint_that_is_gone_is_no_error(fake: FakeCompute, answer: str) -> None:
    ours = registration(fake)
    join(ours)
    fake.endpoints[GROUP].clear()
    if answer == "operation":
        fake.next_operation(error=("RESOURCE_NOT_FOUND", "no endpoint", 400))
    else:
        fake.fail_next("detachNetworkEndpoints", int(answer), "The endpoint was not found")
    assert ours.leave() is False


def test_a_deleted_group_has_no_endpoints(fake: FakeCompute) -> None:
    ours = registration(fake)
    join(ours)
    fake.types.clear()
    assert ours.leave() is False


def test_leaving_takes_no_longer_than_its_deadline(fake: FakeCompute) -> None:
    ours = registration(fake, GCP_TIMEOUT="1")
    join(ours)
    fake.hang("detachNetworkEndpoints")
    begin = time.monotonic()
    with pytest.raises(NetworkFailed, match=r"cannot detach vm-1:8000 .*not done within 1 s") as at:
        ours.leave()
    # One call alone may take 10 s.
    assert 1 <= time.monotonic() - begin < 6
    assert not at.value.permanent


def test_leaving_works_after_a_registration_without_an_answer(fake: FakeCompute) -> None:
    ours = registration(fake, GCP_TIMEOUT="1")
    ours.load()
    fake.hang("attachNetworkEndpoints")
    begin = time.monotonic()
    with pytest.raises(NetworkFailed, match="not done within 1 s: no answer within"):
        join(ours)
    assert time.monotonic() - begin < 6
    assert ours.leave() is True
    assert fake.named("detachNetworkEndpoints")


def test_leaving_waits_for_an_attachment_in_progress(fake: FakeCompute) -> None:
    fake.next_operation(running_polls=2)
    stop = NoPause()
    stop.instead = stop.set
    ours = registration(fake)
    with pytest.raises(NetworkFailed, match="stopped"):
        ours.join(stop)
    assert fake.endpoints[GROUP] == []
    assert ours.leave() is True
    assert fake.names[-5:] == ["operation", "operation", *DETACHED]
    assert fake.endpoints[GROUP] == []


def test_a_stop_ends_a_registration_that_is_being_retried(fake: FakeCompute) -> None:
    fake.fail_next("attachNetworkEndpoints", 503, "busy", times=999)
    stop = threading.Event()
    failed: list[NetworkFailed] = []
    ours = registration(fake)

    def joining() -> None:
        with pytest.raises(NetworkFailed) as caught:
            ours.join(stop)
        failed.append(caught.value)

    thread = threading.Thread(target=joining)
    thread.start()
    while not fake.named("attachNetworkEndpoints"):
        stop.wait(0.005)
    stop.set()
    thread.join(30)
    assert "stopped: 503 busy" in str(failed[0])
    assert not failed[0].permanent


def test_the_second_interface_may_be_the_public_one() -> None:
    with FakeCompute() as fake:
        fake.add_machine("vm-1", ("10.0.0.2", "203.0.113.5"), ("10.1.0.2", "127.0.0.1"))
        join(registration(fake))
        assert fake.endpoints[GROUP] == [{**ENDPOINT, "ipAddress": "10.1.0.2"}]


@pytest.mark.parametrize("machines", [0, 2])
def test_no_machine_or_several_machines_with_the_address_are_an_error(machines: int) -> None:
    with FakeCompute() as fake:
        for number in range(machines):
            fake.add_machine(f"vm-{number}", zone=f"us-west1-{'ab'[number]}")
        with pytest.raises(NetworkFailed, match="PUBLIC_IP") as caught:
            join(registration(fake))
        assert caught.value.permanent
        assert ("GCP_NEG_SCOPE=regional" in str(caught.value)) == (machines == 0)


def test_a_hostname_may_have_several_addresses(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_resolve", lambda _: {"203.0.113.1", "127.0.0.1"})
    assert join(registration(fake)) == PLACE


def test_public_ip_replaces_the_hostnames_address(fake: FakeCompute) -> None:
    settings = {"HATHORA_HOSTNAME": "nowhere.invalid", "PUBLIC_IP": "127.0.0.1"}
    assert join(registration(fake, **settings)) == PLACE


def test_a_hostname_that_does_not_resolve_yet_is_retried(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, hosts = socket.getaddrinfo, []

    def fail_once(host: str, *rest: object) -> object:
        hosts.append(host)
        if hosts == ["localhost"]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", fail_once)
    assert join(registration(fake)) == PLACE


@pytest.mark.parametrize(
    ("scope", "settings", "path"),
    [
        (
            "regional",
            {"GCP_REGION": "us-west1", "GCP_NEG_NAME": "llm-{region}"},
            "regions/us-west1",
        ),
        ("global", {"GCP_NEG_NAME": "llm-us-west1"}, "global"),
    ],
)
@pytest.mark.parametrize("type", ["INTERNET_FQDN_PORT", "INTERNET_IP_PORT"])
def test_an_internet_group_takes_a_hostname_or_an_address(
    scope: str, settings: dict[str, str], path: str, type: str
) -> None:
    with FakeCompute(types={"llm-us-west1": type}) as fake:
        defaults = {"GCP_NEG_NAME": "llm-{region}", "HATHORA_HOSTNAME": "LocalHost"}
        ours = registration(fake, GCP_NEG_SCOPE=scope, **defaults | settings)
        place = join(ours)
        named = type == "INTERNET_FQDN_PORT"
        member = {"fqdn": "localhost"} if named else {"ipAddress": "127.0.0.1"}
        assert fake.endpoints["llm-us-west1"] == [{**member, "port": 8000}]
        location = "us-west1" if scope == "regional" else None
        endpoint = "localhost:8000" if named else "127.0.0.1:8000"
        assert place == Place("llm-us-west1", scope, location, endpoint, PROJECT)
        assert fake.names == ["get", "listNetworkEndpoints", *ATTACHED]
        assert all(f"/projects/{PROJECT}/{path}/" in call.path for call in fake.calls)
        assert ours.leave() is True


@pytest.mark.parametrize(
    ("scope", "type"),
    [
        ("zonal", "NON_GCP_PRIVATE_IP_PORT"),
        ("zonal", "GCE_VM_IP"),
        ("global", "GCE_VM_IP_PORT"),
        ("global", "NON_GCP_PRIVATE_IP_PORT"),
    ],
)
def test_a_group_of_the_wrong_type_is_refused(scope: str, type: str) -> None:
    with FakeCompute(types={GROUP: type}) as fake:
        fake.add_machine()
        with pytest.raises(NetworkFailed, match=f"is of type {type}; a {scope} group") as caught:
            join(registration(fake, GCP_NEG_SCOPE=scope, GCP_NEG_NAME=GROUP))
        assert caught.value.permanent
        assert not fake.named("attachNetworkEndpoints")


def test_an_internet_group_needs_exactly_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_resolve", lambda _: {"203.0.113.1", "203.0.113.2"})
    with FakeCompute(types={"llm": "INTERNET_IP_PORT"}) as fake:
        ours = registration(fake, GCP_NEG_SCOPE="global", GCP_NEG_NAME="llm")
        with pytest.raises(NetworkFailed, match=r"203.0.113.1, 203.0.113.2.*PUBLIC_IP"):
            join(ours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"GCP_NEG_SCOPE": "regional", "GCP_NEG_NAME": "llm"}, "needs GCP_REGION"),
        ({"GCP_NEG_SCOPE": "regional", "GCP_REGION": "us-west1"}, "GCP_NEG_NAME.*no {zone}"),
        ({"GCP_NEG_SCOPE": "global"}, "GCP_NEG_NAME.*no {zone}"),
        ({"GCP_NEG_SCOPE": "global", "GCP_NEG_NAME": "llm-{region}"}, "needs GCP_REGION"),
        ({"GCP_NEG_NAME": "llm-{zoen}"}, "only {zone} and {region}"),
    ],
)
def test_contradicting_settings_are_refused(
    fake: FakeCompute, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        registration(fake, **settings)


def encoded(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_a_key_may_have_line_breaks_and_the_project_may_be_another(fake: FakeCompute) -> None:
    key = "\n".join(fake.key_base64()[at : at + 76] for at in range(0, 4000, 76))
    settings = {"GCP_SERVICE_ACCOUNT_KEY_BASE64": key, "GCP_PROJECT": "elsewhere"}
    assert join(registration(fake, **settings)).project == "elsewhere"
    assert all("/projects/elsewhere/" in call.path for call in fake.calls)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda fake: fake.key_base64() + "!", "is not base64"),
        (lambda fake: fake.key_base64()[:-7], "is not"),
        (lambda fake: base64.b64decode(fake.key_base64()).decode(), "is JSON; it must be"),
        (lambda fake: base64.b64encode(b"secret-of-the-key").decode(), "not the base64 of a JSON"),
        (lambda fake: base64.b64encode(b"[" * 30_000).decode(), "not the base64 of a JSON"),
        (lambda fake: encoded(["secret-of-the-key"]), "not the base64 of a JSON object"),
        (lambda fake: fake.key_base64(private_key=None), "it has no private_key"),
        (lambda fake: fake.key_base64(client_email=None), "it has no client_email"),
        (lambda fake: fake.key_base64(private_key="secret-of-the-key"), "cannot be used"),
        (lambda fake: fake.key_base64(project_id=None), "names no project; set GCP_PROJECT"),
    ],
)
def test_an_unusable_key_is_reported_by_its_setting_and_never_shown(
    fake: FakeCompute, spoil: object, message: str
) -> None:
    key = spoil(fake)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message) as caught:
        registration(fake, GCP_SERVICE_ACCOUNT_KEY_BASE64=key)
    text = str(caught.value)
    assert text.startswith("GCP_SERVICE_ACCOUNT_KEY_BASE64 ")
    assert "\n" not in text
    assert "secret" not in text
    assert "PRIVATE" not in text
    assert key not in text
    # A traceback would show the error behind it, which carries the key.
    assert caught.value.__context__ is None


def test_a_bad_variable_of_the_library_is_reported(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", "perhaps")
    with pytest.raises(NetworkFailed, match="GOOGLE_API_USE_MTLS_ENDPOINT") as caught:
        registration(fake).load()
    assert caught.value.permanent


def test_nothing_is_written_to_disk(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ours = registration(fake)
    join(ours)
    ours.leave()
    assert list(tmp_path.iterdir()) == []
