"""Which group this server belongs to, and as which endpoint: looked up by GCP_NEG_SCOPE.

zonal             HATHORA_HOSTNAME ─ address ─ virtual machine ─ its zone ─ group
regional, global  group ─ its type ─ the name or its address
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from app.errors import ConfigError
from app.hathora.compute import Compute, Endpoint, Group, Machine
from app.hathora.deadline import Deadline
from app.hathora.failures import CallFailed, NetworkFailed, network_failure
from app.logs.setup import log
from app.settings.catalogue import Settings


class Target(NamedTuple):
    """The endpoint to attach, and the group to attach it to."""

    group: Group
    endpoint: Endpoint


class Locator:
    """Finds the target.

    The constructor raises ConfigError if the settings contradict each other.
    """

    def __init__(self, settings: Settings, project: str) -> None:
        assert settings.hathora_hostname is not None
        assert settings.hathora_default_port is not None
        self._settings = settings
        self._project = project
        self._hostname = settings.hathora_hostname
        self._port = settings.hathora_default_port
        self._scope = settings.gcp_neg_scope
        self._region = settings.gcp_region or ""
        self._check_name()

    def locate(self, compute: Compute, deadline: Deadline) -> Target:
        """Raises NetworkFailed."""
        match self._scope:
            case "zonal":
                machine = self._machine(compute, deadline)
                region = machine.zone.rpartition("-")[0]
                name = self._group_name(zone=machine.zone, region=region)
                group = self._group(compute, name, machine.zone, deadline)
                return Target(group, self._machine_endpoint(group, machine))
            case "regional":
                name = self._group_name(region=self._region)
                group = self._group(compute, name, self._region, deadline)
            case "global":
                name = self._group_name(region=self._region)
                group = self._group(compute, name, None, deadline)
        return Target(group, self._internet_endpoint(group, deadline))

    def _check_name(self) -> None:
        name = self._settings.gcp_neg_name
        if self._scope == "regional" and not self._region:
            raise ConfigError("GCP_NEG_SCOPE=regional needs GCP_REGION")
        if self._scope != "zonal" and "{zone}" in name:
            raise ConfigError(f"GCP_NEG_NAME={name}: a {self._scope} group has no {{zone}}")
        if self._scope == "global" and "{region}" in name and not self._region:
            raise ConfigError(f"GCP_NEG_NAME={name}: {{region}} needs GCP_REGION")
        if "{" in self._group_name(zone="", region=""):
            raise ConfigError(f"GCP_NEG_NAME={name}: only {{zone}} and {{region}} are filled in")

    def _group_name(self, **values: str) -> str:
        name = self._settings.gcp_neg_name
        for placeholder, value in values.items():
            name = name.replace(f"{{{placeholder}}}", value)
        return name

    def _group(
        self, compute: Compute, name: str, location: str | None, deadline: Deadline
    ) -> Group:
        place = f"{location} of {self._project}" if location else self._project
        problem = f"cannot get the {self._scope} group {name} in {place}"
        hint = "create it, or set GCP_NEG_NAME, GCP_NEG_SCOPE or GCP_PROJECT"
        with network_failure(problem, if_not_found=hint):
            return compute.get_group(name, location, deadline)

    def _machine(self, compute: Compute, deadline: Deadline) -> Machine:
        addresses = self._addresses(deadline)
        shown = ", ".join(sorted(addresses))
        with network_failure(f"cannot look for the virtual machine with the address {shown}"):
            machines = compute.find_machines(addresses, deadline)
        if not machines:
            raise NetworkFailed(
                f"no virtual machine of project {self._project} has the address {shown} of "
                f"{self._hostname}; set GCP_NEG_SCOPE=regional or global for a server outside of "
                "the project, PUBLIC_IP if its address is another",
                permanent=True,
            )
        if len(machines) > 1:
            names = ", ".join(f"{machine.name} in {machine.zone}" for machine in machines)
            raise NetworkFailed(
                f"several network interfaces have the address {shown} of {self._hostname}: "
                f"{names}; set PUBLIC_IP to this server's",
                permanent=True,
            )
        (machine,) = machines
        log.info("virtual machine found", name=machine.name, zone=machine.zone, ip=machine.ip)
        return machine

    def _machine_endpoint(self, group: Group, machine: Machine) -> Endpoint:
        if group.type != "GCE_VM_IP_PORT":
            raise _wrong_type(group, "zonal", "GCE_VM_IP_PORT")
        return Endpoint(self._port, instance=machine.name, ip=machine.ip)

    def _internet_endpoint(self, group: Group, deadline: Deadline) -> Endpoint:
        if group.type == "INTERNET_FQDN_PORT":
            return Endpoint(self._port, fqdn=self._hostname.lower().rstrip("."))
        if group.type != "INTERNET_IP_PORT":
            raise _wrong_type(group, self._scope, "INTERNET_FQDN_PORT or INTERNET_IP_PORT")
        addresses = self._addresses(deadline)
        if len(addresses) > 1:
            shown = ", ".join(sorted(addresses))
            raise NetworkFailed(
                f"{self._hostname} has several addresses ({shown}); set PUBLIC_IP to this server's",
                permanent=True,
            )
        return Endpoint(self._port, ip=addresses.pop())

    def _addresses(self, deadline: Deadline) -> set[str]:
        if self._settings.public_ip:
            return {self._settings.public_ip}
        with network_failure("HATHORA_HOSTNAME"):
            return deadline.retry("resolve", lambda: _resolve(self._hostname))


def _resolve(hostname: str) -> set[str]:
    try:
        infos = socket.getaddrinfo(hostname, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise CallFailed(f"{hostname}: {error.strerror}", transient=True) from error
    return {str(address[0]) for *_, address in infos}


def _wrong_type(group: Group, scope: str, wanted_type: str) -> NetworkFailed:
    return NetworkFailed(
        f"the group {group.name} is of type {group.type}; a {scope} group must be {wanted_type}",
        permanent=True,
    )
