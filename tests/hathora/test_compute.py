"""The client library against a Compute API on loopback: calls, pages, retries and their end."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator

import pytest

from app.hathora.compute import Compute, Endpoint, Group, Machine
from app.hathora.deadline import Deadline
from app.hathora.failures import CallFailed
from app.hathora.key import read_key
from tests.support.compute import GROUP, PROJECT, ZONE, FakeCompute, NoPause

ZONAL = Group(GROUP, ZONE, "GCE_VM_IP_PORT")
OURS = Endpoint(8000, instance="vm-1", ip="10.0.0.2")


@pytest.fixture
def fake() -> Iterator[FakeCompute]:
    with FakeCompute() as running:
        yield running


def client(fake: FakeCompute) -> Compute:
    credentials, project = read_key(fake.key_base64())
    return Compute(credentials, project=project, scope="zonal", api_endpoint=fake.url + "/")


def soon(stop: threading.Event | None = None) -> Deadline:
    return Deadline(20, stop or NoPause())


def test_a_call_carries_a_token_that_the_key_signed_and_asks_nobody_else(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", fake.url)  # whatever goes elsewhere comes here
    assert client(fake).get_group(GROUP, ZONE, soon()) == ZONAL
    (call,) = fake.calls
    header, claims, _ = call.headers["authorization"].removeprefix("Bearer ").split(".")
    assert json.loads(base64.b64decode(header + "=="))["kid"] == "1"
    assert json.loads(base64.b64decode(claims + "=="))["iss"] == f"server@{PROJECT}.example"
    assert call.path.endswith(f"/projects/{PROJECT}/zones/{ZONE}/networkEndpointGroups/{GROUP}")


def test_a_machine_is_found_by_the_interface_that_has_the_address(fake: FakeCompute) -> None:
    fake.add_machine("other", ("10.0.0.9", "203.0.113.9"))
    fake.add_machine("vm-1", ("10.0.0.2", None), ("10.1.0.2", "203.0.113.7"))
    found = client(fake).find_machines({"203.0.113.7"}, soon())
    assert found == [Machine("vm-1", ZONE, "10.1.0.2")]
    assert [call.query["filter"] for call in fake.calls] == [
        'networkInterfaces.accessConfigs.natIP = "203.0.113.7"'
    ]


def test_one_of_several_addresses_is_enough(fake: FakeCompute) -> None:
    fake.add_machine("vm-1", ("10.0.0.2", "203.0.113.7"))
    found = client(fake).find_machines({"203.0.113.8", "203.0.113.7"}, soon())
    assert found == [Machine("vm-1", ZONE, "10.0.0.2")]
    assert " OR " in fake.calls[0].query["filter"]


def test_every_page_is_read() -> None:
    with FakeCompute(page_size=2) as fake:
        for number in range(5):
            fake.add_machine(f"vm-{number}", (f"10.0.0.{number}", "203.0.113.7"))
            fake.endpoints[GROUP].append({"instance": f"vm-{number}", "port": number})
        compute = client(fake)
        assert len(compute.find_machines({"203.0.113.7"}, soon())) == 5
        assert len(compute.list_endpoints(ZONAL, soon())) == 5
        assert fake.names == ["aggregatedList"] * 3 + ["listNetworkEndpoints"] * 3


@pytest.mark.parametrize("refused", [False, True])
def test_a_filter_that_finds_nothing_is_not_believed(refused: bool) -> None:
    with FakeCompute(filters=False) as fake:
        fake.add_machine("vm-1", ("10.0.0.2", "203.0.113.7"))
        if refused:
            fake.fail_next("aggregatedList", 400, "Invalid value for field 'filter'")
        found = client(fake).find_machines({"203.0.113.7"}, soon())
        assert found == [Machine("vm-1", ZONE, "10.0.0.2")]
        assert "filter" not in fake.calls[1].query


def test_listed_endpoints_are_comparable_with_ours(fake: FakeCompute) -> None:
    url = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/vm-1"
    fake.endpoints[GROUP] += [
        {"instance": url, "ipAddress": "10.0.0.2", "port": 8000},
        {"fqdn": "Name.Example.", "port": 8000},
    ]
    listed = client(fake).list_endpoints(ZONAL, soon())
    assert listed == [OURS, Endpoint(8000, fqdn="name.example")]
    assert fake.calls[0].body == {"healthStatus": "SKIP"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_change_is_sent_again_under_the_same_id(fake: FakeCompute, status: int) -> None:
    fake.fail_next("attachNetworkEndpoints", status, times=3)
    client(fake).attach(ZONAL, OURS, soon())
    assert len(fake.calls) == 4
    assert len({call.query["requestId"] for call in fake.calls}) == 1
    assert fake.calls[0].body["networkEndpoints"] == [
        {"instance": "vm-1", "ipAddress": "10.0.0.2", "port": 8000}
    ]


def test_two_changes_have_two_ids(fake: FakeCompute) -> None:
    compute = client(fake)
    compute.attach(ZONAL, OURS, soon())
    compute.detach(ZONAL, OURS, soon())
    assert len({call.query["requestId"] for call in fake.calls}) == 2


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "rateLimitExceeded"), (400, "resourceNotReady")]
)
def test_not_so_fast_is_no_refusal(fake: FakeCompute, status: int, reason: str) -> None:
    fake.fail_next("get", status, reason=reason)
    assert client(fake).get_group(GROUP, ZONE, soon()) == ZONAL


def test_a_refusal_is_one_line_and_final(fake: FakeCompute) -> None:
    fake.fail_next("get", 403, "Required 'compute.x.get'\n permission " + "for " * 500)
    with pytest.raises(CallFailed, match=r"^403 Required 'compute.x.get' permission for") as caught:
        client(fake).get_group(GROUP, ZONE, soon())
    assert (caught.value.status, caught.value.transient) == (403, False)
    assert len(str(caught.value)) < 500
    assert len(fake.calls) == 1


def test_nobody_listens_yet() -> None:
    with FakeCompute(listening=False) as fake:
        deadline = soon(NoPause(fake.listen))
        assert client(fake).get_group(GROUP, ZONE, deadline) == ZONAL


def test_nobody_ever_listens() -> None:
    with FakeCompute(listening=False) as fake:
        compute = client(fake)
        with pytest.raises(CallFailed, match=r"^not done within 0.3 s: no connection: Connection"):
            compute.get_group(GROUP, ZONE, Deadline(0.3))


def test_a_call_without_an_answer_ends_at_the_deadline(fake: FakeCompute) -> None:
    fake.hang("get")
    compute = client(fake)
    begin = time.monotonic()
    with pytest.raises(CallFailed, match=r"not done within 0.5 s: no answer within"):
        compute.get_group(GROUP, ZONE, Deadline(0.5))
    assert 0.5 <= time.monotonic() - begin < 2


def test_an_operation_is_asked_for_until_it_is_done(fake: FakeCompute) -> None:
    fake.next_operation(running_polls=3)
    compute = client(fake)
    compute.wait(compute.attach(ZONAL, OURS, soon()), soon())
    assert fake.names == ["attachNetworkEndpoints"] + ["operation"] * 4
    assert compute.list_endpoints(ZONAL, soon()) == [OURS]


def test_an_operation_may_end_with_an_error(fake: FakeCompute) -> None:
    fake.next_operation(error=("QUOTA_EXCEEDED", "too many endpoints", 403))
    compute = client(fake)
    operation = compute.attach(ZONAL, OURS, soon())
    with pytest.raises(CallFailed, match="QUOTA_EXCEEDED: too many endpoints") as caught:
        compute.wait(operation, soon())
    assert caught.value.status == 403


def test_whoever_stops_it_waits_for_one_call_at_most(fake: FakeCompute) -> None:
    stop = NoPause()
    stop.instead = stop.set
    fake.fail_next("get", 503, "busy", times=9)
    with pytest.raises(CallFailed, match=r"^stopped: 503 busy$"):
        client(fake).get_group(GROUP, ZONE, Deadline(20, stop))
    assert len(fake.calls) == 1
