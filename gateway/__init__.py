"""A transparent egress gateway for sandboxes: one policy says what may leave, every attempt is on record."""

from rules import ALL_TRAFFIC, AuditConfig, NetworkPolicy, PolicyError, SecurityPolicy

__all__ = ["ALL_TRAFFIC", "AuditConfig", "NetworkPolicy", "PolicyError", "SecurityPolicy"]
