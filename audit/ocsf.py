"""Records in the words of the Open Cybersecurity Schema Framework 1.3: Network Activity (class 4001), DNS Activity (4003) for queries, Base Event (0)
for what the records say of themselves. Pure."""

from datetime import datetime
from typing import Any, Final

from audit.record import Event, Record

VERSION: Final = "1.3.0"
NETWORK_ACTIVITY: Final = 4001
DNS_ACTIVITY: Final = 4003
OPEN, CLOSE, REFUSE = 1, 2, 5
QUERY: Final = 1
OTHER: Final = 99
PRODUCT: Final = {"name": "egress-gateway", "vendor_name": "egress-gateway"}
PROTOCOL_NUMBERS: Final = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "sctp": 132}
ACTIVITIES: Final = {
    Event.ALLOWED: (OPEN, "Open"),
    Event.BLOCKED: (REFUSE, "Refuse"),
    Event.CLOSED: (CLOSE, "Close"),
}
KEPT: Final = (
    *("schema", "reason", "rule", "layer", "app", "domain_source", "domain_raw", "ech", "dest_mismatch"),
    *("generation", "ended_by", "phase", "qtype", "upstream_ip"),
)
"""What the framework has no field for, or only one that is shared: in ``unmapped``, under our own names."""


def to_ocsf(record: Record) -> Record:
    """``record`` as one event. Total: a line that has not the published form, which we did not write, is a Base Event that holds it as it is."""
    try:
        return _mapped(record)
    except (KeyError, TypeError, ValueError, OverflowError):
        return {
            "class_uid": 0,
            "class_name": "Base Event",
            "category_uid": 0,
            "category_name": "Uncategorized",
            "activity_id": OTHER,
            "activity_name": "Other",
            "type_uid": OTHER,
            "severity_id": 0,
            "severity": "Unknown",
            "time": 0,
            "message": "not of the published form",
            "metadata": {"version": VERSION, "product": dict(PRODUCT)},
            "unmapped": record,
        }


def _mapped(record: Record) -> Record:
    event = record["event"]
    if event in ACTIVITIES:
        activity, name = ACTIVITIES[event]
        made = _event(record, NETWORK_ACTIVITY, "Network Activity", activity, name)
        made |= _ends(record)
        if event == Event.CLOSED:
            made |= _traffic(record)
    elif event in (Event.DNS_ALLOWED, Event.DNS_BLOCKED):
        made = _event(record, DNS_ACTIVITY, "DNS Activity", QUERY, "Query")
        made |= _ends(record)
        asked = {"hostname": record.get("domain"), "type": record.get("qtype")}
        made["query"] = {key: value for key, value in asked.items() if value is not None}
    else:
        made = _event(record, 0, "Base Event", OTHER, str(event))
    if event != Event.CLOSED and event in (*ACTIVITIES, Event.DNS_ALLOWED, Event.DNS_BLOCKED):
        made |= _verdict(record, allowed=event in (Event.ALLOWED, Event.DNS_ALLOWED))
    unmapped = {key: record[key] for key in KEPT if record.get(key) is not None}
    if event not in ACTIVITIES and "dest_ip" not in record:
        unmapped |= {
            key: value
            for key, value in record.items()
            if key not in ("timestamp", "event", "sandbox", "writer", "seq")
        }
    made["unmapped"] = unmapped
    return made


def _event(record: Record, class_uid: int, class_name: str, activity: int, name: str) -> Record:
    made: dict[str, Any] = {
        "class_uid": class_uid,
        "class_name": class_name,
        "category_uid": 4 if class_uid else 0,
        "category_name": "Network Activity" if class_uid else "Uncategorized",
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class_uid * 100 + activity,
        "severity_id": 1,
        "severity": "Informational",
        "time": milliseconds(record["timestamp"]),
        "metadata": {
            "version": VERSION,
            "product": dict(PRODUCT),
            "profiles": ["security_control"],
            "uid": f"{record.get('writer')}-{record.get('seq')}",
            "original_time": record["timestamp"],
            "sequence": record.get("seq"),
        },
    }
    if record.get("count") is not None:
        made["count"] = record["count"]
    return made


def _ends(record: Record) -> Record:
    connection: dict[str, Any] = {
        "direction_id": 2,
        "direction": "Outbound",
        "protocol_name": record.get("proto"),
    }
    if record.get("proto") in PROTOCOL_NUMBERS:
        connection["protocol_num"] = PROTOCOL_NUMBERS[record["proto"]]
    if record.get("flow") is not None:
        connection["uid"] = record["flow"]
    source = {
        "ip": record.get("src_ip"),
        "port": record.get("src_port"),
        "instance_uid": record.get("sandbox"),
    }
    dest = {"ip": record.get("dest_ip"), "port": record.get("dest_port")}
    if record.get("domain") is not None and "qtype" not in record:
        dest |= {"hostname": record["domain"]}
    return {
        "connection_info": connection,
        "src_endpoint": {key: value for key, value in source.items() if value not in (None, 0)},
        "dst_endpoint": {key: value for key, value in dest.items() if value not in (None, 0)},
    }


def _verdict(record: Record, *, allowed: bool) -> Record:
    return {
        "action_id": 1 if allowed else 2,
        "action": "Allowed" if allowed else "Denied",
        "disposition_id": 1 if allowed else 2,
        "disposition": "Allowed" if allowed else "Blocked",
        "status_id": 1 if allowed else 2,
        "status": "Success" if allowed else "Failure",
        "status_detail": record.get("reason"),
        "firewall_rule": {"name": record.get("rule")},
    }


def _traffic(record: Record) -> Record:
    up, down = record["bytes_up"], record["bytes_down"]
    end = milliseconds(record["timestamp"])
    return {
        "traffic": {"bytes_out": up, "bytes_in": down, "bytes": up + down},
        "duration": round(record["duration_ms"]),
        "start_time": end - round(record["duration_ms"]),
        "end_time": end,
    }


def milliseconds(stamp: str) -> int:
    """Since the epoch."""
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)
