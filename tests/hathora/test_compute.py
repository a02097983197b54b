"""The client library against a Compute API on loopback: calls, pages, retries and deadlines."""

from __future__ import annotations

import base64
import json
import threading
import time

import pytest

from app.hathora.compute import Compute, Endpoint, Group, Machine
from app.hathora.deadline import Deadline
from app.hathora.failures import CallFailed
from app.hathora.key import read_key
from tests.support.compute import GROUP, PROJECT, ZONE, FakeCompute, NoPause

ZONAL = Group(GROUP, ZONE, "GCE_VM_IP_PORT")
OURS = Endpoint(8000, instance="vm-1", ip="10.0.0.2")


def client(fake: FakeCompute) -> Compute:
    credentials, project = read_key(fake.key_base64())
    return Compute(credentials, project=project, scope="zonal", api_endpoint=fake.url + "/")


def deadline(stop: threading.Event | None = None) -> Deadline:
    return Deadline(20, stop or NoPause())


def test_a_call_carries_a_token_signed_by_the_key_and_contacts_no_other_host(
    fake: FakeCompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", fake.url)  # calls to other hosts arrive here too
    assert client(fake).get_group(GROUP, ZONE, deadline()) == ZONAL
    (call,) = fake.calls
    header, claims, _ = call.headers["authorization"].removeprefix("Bearer ").split(".")
    assert json.loads(base64.b64decode(header + "=="))["kid"] == "1"
    assert json.loads(base64.b64decode(claims + "=="))["iss"] == f"server@{PROJECT}.example"
    assert call.path.endswith(f"/projects/{PROJECT}/zones/{ZONE}/networkEndpointGroups/{GROUP}")


def test_a_machine_is_found_by_the_interface_that_has_the_address(fake: FakeCompute) -> None:
    fake.add_machine("other", ("10.0.0.9", "203.0.113.9"))
    fake.add_machine("vm-1", ("10.0.0.2", None), ("10.1.0.2", "203.0.113.7"))
    machines = client(fake).find_machines({"203.0.113.7"}, deadline())
    assert machines == [Machine("vm-1", ZONE, "10.1.0.2")]
    assert [call.query["filter"] for call in fake.calls] == [
        'networkInterfaces.accessConfigs.natIP = "203.0.113.7"'
    ]


def test_a_machine_is_found_by_one_of_several_addresses(fake: FakeCompute) -> None:
    fake.add_machine("vm-1", ("10.0.0.2", "203.0.113.7"))
    machines = client(fake).find_machines({"203.0.113.8", "203.0.113.7"}, deadline())
    assert machines == [Machine("vm-1", ZONE, "10.0.0.2")]
    assert " OR " in fake.calls[0].query["filter"]


def test_every_page_is_read() -> None:
    with FakeCompute(page_size=2) as fake:
        for number in range(5):
            fake.add_machine(f"vm-{number}", (f"10.0.0.{number}", "203.0.113.7"))
            fake.endpoints[GROUP].append({"instance": f"vm-{number}", "port": number})
        compute = client(fake)
        assert len(compute.find_machines({"203.0.113.7"}, deadline())) == 5
        assert len(compute.list_endpoints(ZONAL, deadline())) == 5
        assert fake.names == ["aggregatedList"] * 3 + ["listNetworkEndpoints"] * 3


@pytest.mark.parametrize("refused", [False, True])
def test_an_empty_filtered_list_is_checked_without_the_filter(refused: bool) -> None:
    with FakeCompute(filters=False) as fake:
        fake.add_machine("vm-1", ("10.0.0.2", "203.0.113.7"))
        if refused:
            fake.fail_next("aggregatedList", 400, "Invalid value for field 'filter'")
        machines = client(fake).find_machines({"203.0.113.7"}, deadline())
        assert machines == [Machine("vm-1", ZONE, "10.0.0.2")]
        assert "filter" not in fake.calls[1].query


def test_listed_endpoints_are_comparable_with_ours(fake: FakeCompute) -> None:
    url = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{ZONE}/instances/vm-1"
    fake.endpoints[GROUP] += [
        {"instance": url, "ipAddress": "10.0.0.2", "port": 8000},
        {"fqdn": "Name.Example.", "port": 8000},
    ]
    listed = client(fake).list_endpoints(ZONAL, deadline())
    assert listed == [OURS, Endpoint(8000, fqdn="name.example")]
    assert fake.calls[0].body == {"healthStatus": "SKIP"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_retried_change_keeps_its_request_id(fake: FakeCompute, status: int) -> None:
    fake.fail_next("attachNetworkEndpoints", status, times=3)
    client(fake).attach(ZONAL, OURS, deadline())
    assert len(fake.calls) == 4
    assert len({call.query["requestId"] for call in fake.calls}) == 1
    assert fake.calls[0].body["networkEndpoints"] == [
        {"instance": "vm-1", "ipAddress": "10.0.0.2", "port": 8000}
    ]


def test_two_changes_have_different_request_ids(fake: FakeCompute) -> None:
    compute = client(fake)
    compute.attach(ZONAL, OURS, deadline())
    compute.detach(ZONAL, OURS, deadline())
    assert len({call.query["requestId"] for call in fake.calls}) == 2


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "rateLimitExceeded"), (400, "resourceNotReady")]
)
def test_a_rate_limit_and_a_resource_that_is_not_ready_are_retried(
    fake: FakeCompute, status: int, reason: str
) -> None:
    fake.fail_next("get", status, reason=reason)
    assert client(fake).get_group(GROUP, ZONE, deadline()) == ZONAL


def test_a_refusal_is_one_line_and_is_not_retried(fake: FakeCompute) -> None:
    fake.fail_next("get", 403, "Required 'compute.x.get'\n permission " + "for " * 500)
    with pytest.raises(CallFailed, match=r"^403 Required 'compute.x.get' permission for") as caught:
        client(fake).get_group(GROUP, ZONE, deadline())
    assert (caught.value.status, caught.value.transient) == (403, False)
    assert len(str(caught.value)) < 500
    assert len(fake.calls) == 1


def test_a_refused_connection_is_retried() -> None:
    with FakeCompute(listening=False) as fake:
        listening_later = NoPause(fake.listen)
        assert client(fake).get_group(GROUP, ZONE, deadline(listening_later)) == ZONAL


def test_an_api_that_never_listens_fails_at_the_deadline() -> None:
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
    # One call alone may take 10 s.
    assert 0.5 <= time.monotonic() - begin < 5


def test_an_operation_is_polled_until_it_is_done(fake: FakeCompute) -> None:
    fake.next_operation(running_polls=3)
    compute = client(fake)
    compute.wait(compute.attach(ZONAL, OURS, deadline()), deadline())
    assert fake.names == ["attachNetworkEndpoints"] + ["operation"] * 4
    assert compute.list_endpoints(ZONAL, deadline()) == [OURS]


def test_an_operation_may_end_with_an_error(fake: FakeCompute) -> None:
    fake.next_operation(error=("QUOTA_EXCEEDED", "too many endpoints", 403))
    compute = client(fake)
    operation = compute.attach(ZONAL, OURS, deadline())
    with pytest.raises(CallFailed, match="QUOTA_EXCEEDED: too many endpoints") as caught:
        compute.wait(operation, deadline())
    assert caught.value.status == 403


def test_a_stop_ends_the_retries_after_the_call_in_progress(fake: FakeCompute) -> None:
    stop = NoPause()
    stop.instead = stop.set
    fake.fail_next("get", 503, "busy", times=9)
    with pytest.raises(CallFailed, match=r"^stopped: 503 busy$"):
        client(fake).get_group(GROUP, ZONE, Deadline(20, stop))
    assert len(fake.calls) == 1
