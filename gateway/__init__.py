"""A transparent egress gateway for sandboxes: one policy says what may leave, every attempt is on record."""

from typing import TYPE_CHECKING, Any

from rules import ALL_TRAFFIC, AuditConfig, NetworkPolicy, PolicyError, SecurityPolicy

if TYPE_CHECKING:
    from gateway.async_sandbox import AsyncSandbox
    from gateway.commands import CommandResult, CommandTimeout, SandboxClosed
    from gateway.errors import EgressError, InDoubt, PrivilegeError, SetupError
    from gateway.sandbox import Sandbox

__all__ = [
    "ALL_TRAFFIC",
    "AsyncSandbox",
    "AuditConfig",
    "CommandResult",
    "CommandTimeout",
    "EgressError",
    "InDoubt",
    "NetworkPolicy",
    "PolicyError",
    "PrivilegeError",
    "Sandbox",
    "SandboxClosed",
    "SecurityPolicy",
    "SetupError",
]

_ROOMS = {
    "AsyncSandbox": "gateway.async_sandbox",
    "CommandResult": "gateway.commands",
    "CommandTimeout": "gateway.commands",
    "EgressError": "gateway.errors",
    "InDoubt": "gateway.errors",
    "PrivilegeError": "gateway.errors",
    "SetupError": "gateway.errors",
    "Sandbox": "gateway.sandbox",
    "SandboxClosed": "gateway.commands",
}


def __getattr__(name: str) -> Any:
    """What does I/O is imported when it is asked for."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'gateway' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
