"""Host names and addresses of the search page."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

from vatt.errors import InputError

if TYPE_CHECKING:
    pass

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.IGNORECASE)


def normal_host(host: str) -> str:
    """Return a host name in lower case, or an IP address in canonical form."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower()
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address or localhost."""
    try:
        return ipaddress.ip_address(normal_host(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(value: str) -> str | None:
    """Return the host in a ``Host`` header without the port, or None if the header is malformed."""
    match = HOST.fullmatch(value.strip())
    return None if match is None else normal_host(match[1] or match[2])


def allowed_host(name: str) -> str:
    host = normal_host(name)
    if host_of(f"[{host}]" if ":" in host else host) != host:
        raise InputError(f"an allowed host must be a host name or an address, such as videos.example.org, not {name!r}")
    return host


def host_name(host: str, address: str) -> str:
    """Return the name of a server for URLs: ``host``, or its address if ``host`` is empty or numeric, such as 127.1."""
    try:
        socket.inet_aton(host or "0")
    except (OSError, UnicodeError):
        return address if ":" in host else host
    return address


def bound_socket(host: str, port: int) -> socket.socket:
    """Listen on an address, so that an invalid or used address is reported before the index is loaded.

    Args:
        host: Host name or IP address. Empty: all addresses of this machine.
        port: Port, from 0 (any free port) to 65535.

    Returns:
        The listening socket.

    Raises:
        InputError: The address does not exist or is in use, or the port is out of range.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # with SO_REUSEADDR, several sockets may be bound to one port until one listens
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {reason}") from error
    bound.set_inheritable(True)
    return bound
