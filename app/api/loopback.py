"""Keep a service without keys to its own machine: no foreign host name, no proxy, no other site's page."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import respond
from app.errors import ForeignHost

FORWARDING = {b"forwarded", b"x-real-ip", b"via"}
REMEDY = "make a key to open the service to others: `intentloop keys create --role admin`"


class OwnMachineOnly:
    """While no key was ever made, answers 403 to what did not come from this machine by itself.

    A page of the web can have its own name resolve to 127.0.0.1 and then reach whatever listens here, from inside the
    user's browser: but its Host header still says the page's name. A proxy on this machine brings callers from
    elsewhere: but it says so in a header. And a page may send a request without being allowed to read the answer: but
    the browser names the page in Origin.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str], cors_origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = {host.lower().rstrip(".") for host in allowed_hosts}
        self._origins = set(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Without its parts the application has started nothing yet, and holds nothing to show.
        services = getattr(scope["app"].state, "services", None) if scope["type"] == "http" else None
        if services is not None and not services.keys.guarded:
            reason = self.refusal(scope)
            if reason is not None:
                await respond(ForeignHost(f"{reason}; {REMEDY}"))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def refusal(self, scope: Scope) -> str | None:
        """Why this request is not of this machine, or None where it is."""
        named = {b"host": b"", b"origin": None}
        forwarded = False
        for name, value in scope["headers"]:
            if name in named:
                named[name] = value
            forwarded = forwarded or name in FORWARDING or name.startswith(b"x-forwarded-")
        if forwarded:
            return "the request was forwarded by a proxy, and without keys the service answers nobody behind one"
        server = (scope.get("server") or ("", None))[0] or ""
        if _is_address(server) and not is_loopback(server):
            return "the service was reached under an address that others can reach, and there is no key"
        host = host_name((named[b"host"] or b"").decode("latin-1"))
        # A server that is no address is no socket: the request was made in this process, by a test. A socket's
        # address is always one, and nothing that a request says can change it.
        in_process = bool(server) and not _is_address(server) and not server.startswith("/") and host == server.lower()
        if not in_process and not self._own(host):
            return "the request names a host that is not this machine's own"
        if named[b"origin"] is None:
            return None
        origin = named[b"origin"].decode("latin-1")
        if origin in self._origins or "*" in self._origins:
            return None
        page = host_name(origin.partition("://")[2])
        if self._own(page) or (in_process and page == host):
            return None
        return "the request comes from a page of another site"

    def _own(self, host: str) -> bool:
        return is_loopback(host) or host in self._hosts


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether this name or address can only mean the machine itself."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # `::ffff:127.0.0.1`, as an IPv6 socket names an IPv4 caller.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def host_name(authority: str) -> str:
    """The host of a Host header or an origin, without its port: `[::1]:8001` is `::1`."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        inner, closing, port = authority[1:].partition("]")
        return inner if closing and (not port or port.startswith(":")) else ""
    name, _, _ = authority.partition(":")
    return name.removesuffix(".")


@lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
