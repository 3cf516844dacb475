"""``egress audit``: ask the records. Each of its own verbs is a module ``audit_*`` of this package with ``add(verbs)``."""

import argparse

from gateway.cli import audit_query, audit_stats, audit_verify


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb and its own verbs."""
    parser = subparsers.add_parser(
        "audit",
        help="read the records, and prove them",
        description="Read the records, and check that nobody changed them.",
    )
    verbs = parser.add_subparsers(dest="audit_verb", metavar="VERB", required=True)
    audit_query.add(verbs)
    audit_stats.add(verbs)
    audit_verify.add(verbs)
