"""What a policy says, and what the kernel must do about it. The names here are pure."""

from rules.entry import ALL_TRAFFIC
from rules.errors import PolicyError
from rules.plan import Plan, build_plan
from rules.policy import AuditConfig, NetworkPolicy, SecurityPolicy, without_internet

__all__ = [
    "ALL_TRAFFIC",
    "AuditConfig",
    "NetworkPolicy",
    "Plan",
    "PolicyError",
    "SecurityPolicy",
    "build_plan",
    "without_internet",
]
