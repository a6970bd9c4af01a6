"""Allowed hosts: which names the service answers to.

A web page can point a name of its own at 127.0.0.1 (DNS rebinding); the browser of a person who opens the
page then sends requests to a service that only this machine can reach. Their Host header still holds the
name of the page.
"""

import ipaddress
import re
from collections.abc import Collection

#: A Host header: a name or an address, in brackets where it is one of IPv6, and a port or none.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]*)?", re.ASCII)


class AllowedHosts:
    """The names that a Host header may hold, beside those of the loopback addresses.

    Args:
        names: without a port; `*` for all names.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._all, self._names = "*" in names, {name.lower() for name in names}

    def accept(self, header: str) -> bool:
        """Say whether a Host header names the service, whatever its port."""
        if self._all:
            return True
        found = _HOST.fullmatch(header.strip().lower())
        return found is not None and (found[1] in self._names or _is_loopback_name(found[1]))


def allowed_hosts(names: Collection[str] | None, address: str, *, has_keys: bool) -> AllowedHosts:
    """Return the hosts of a service.

    Args:
        names: what the setting names; None where it is not set.
        address: that the service is bound to.
        has_keys: whether every request needs an API key, which a page of another host does not know.
    """
    if names is None:
        names = () if is_loopback(address) and not has_keys else ("*",)
    return AllowedHosts(names)


def is_loopback(address: str) -> bool:
    """Say whether an IP address is one of this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_loopback_name(host: str) -> bool:
    return host == "localhost" or is_loopback(host.strip("[]"))
