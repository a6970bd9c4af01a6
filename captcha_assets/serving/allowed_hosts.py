"""Allowed hosts: which names the service answers to.

A web page can point a name of its own at 127.0.0.1 (DNS rebinding); the browser of a person who opens the
page then sends requests to a service that only this machine can reach. Their Host header still holds the
name of the page.
"""

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from captcha_assets.serving.health import HEALTH_PATHS
from captcha_assets.serving.problems import CLOSE, ProblemError
from captcha_assets.serving.settings import PREFIX

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


class OfAllowedHost:
    """Answers 421 to a request that names another host.

    Args:
        app: what answers.
        hosts: the names of the service.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"] not in HEALTH_PATHS:
            host = Headers(scope=scope).get("host", "")
            if not self._hosts.accept(host):
                detail = f"the service is not reached by the host {host[:100]!r}: {PREFIX}ALLOWED_HOSTS names"
                problem = ProblemError(421, f"{detail} further ones", headers=CLOSE)
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
