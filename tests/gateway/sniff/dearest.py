"""The dearest inputs known, by name: at the caps of the sniffers, just beyond them, and far beyond.

Found by hand and by a search at random over sizes of records, numbers of fields and what fills them. bench/micro/test_sniff.py times them,
``test_cost`` counts their steps.
"""

import random

from tests.gateway.sniff.heads import GET, HOST, head
from tests.gateway.sniff.hellos import (
    KEY_SHARE,
    PADDING,
    Extension,
    alpn,
    hello,
    padding,
    records,
    server_name,
    usual,
    vector,
)

MOST_RECORDS = 2048
MOST_HANDSHAKE = 32768
LIMIT = 65536

CHANCE = random.Random(7)
SHORT = [CHANCE.choice((1, 2, 3)) for _ in range(20000)]
MIXED = [CHANCE.choice((2, 8, 40)) for _ in range(20000)]

NAME = server_name(b"api.openai.com")
HYBRID_SHARE = vector(2, b"\x11\xec" + vector(2, bytes(1216)) + b"\0\x1d" + vector(2, bytes(32)))
POST_QUANTUM = hello(NAME, alpn(b"h2", b"http/1.1"), Extension(KEY_SHARE, HYBRID_SHARE), padding(420))
EXTENSIONS = [Extension(0x4000 + kind) for kind in range(8000)]
PROTOCOLS = alpn(*[b"a"] * 512)
FULL = hello(NAME, PROTOCOLS, *EXTENSIONS[:253])
ALL = hello(NAME, PROTOCOLS, *EXTENSIONS[:253], padding(MOST_HANDSHAKE - len(FULL) - 4))

DEAREST = {
    "hello_517_in_records_of_1": records(usual(least=512), 1),
    "hello_post_quantum_in_records_of_1": records(POST_QUANTUM, 1),
    "hello_in_2048_records_of_1": records(usual(least=MOST_RECORDS), 1),
    "hello_in_2048_records_of_1_to_3": records(usual(least=sum(SHORT[:MOST_RECORDS])), SHORT),
    "hello_in_2048_records_of_16": records(usual(least=MOST_HANDSHAKE), 16),
    "hello_of_32_kib_in_records_of_2_to_40": records(usual(least=MOST_HANDSHAKE), MIXED),
    "hello_of_32_kib_in_records_of_255": records(usual(least=MOST_HANDSHAKE), 255),
    "hello_of_32_kib_in_records_of_256": records(usual(least=MOST_HANDSHAKE), 256),
    "hello_of_32_kib_in_records_of_1_and_256": records(usual(least=MOST_HANDSHAKE), [1, 256] * 200),
    "hello_of_32_kib_in_records_of_1_and_65": records(usual(least=MOST_HANDSHAKE), [1, 65] * 600),
    "hello_with_all_of_it": records(ALL, 16),
    "hello_with_all_of_it_in_records_of_1_and_256": records(ALL, [1, 256] * 200),
    "hello_64_kib_in_records_of_1": records(usual(least=LIMIT // 6), 1),
    "hello_64_kib_in_records_of_2": records(usual(least=LIMIT // 7 * 2), 2),
    "hello_64_kib_in_records_of_1_to_3": records(usual(least=18000), SHORT),
    "hello_64_kib_in_records_of_1_unfinished": records(usual(least=MOST_HANDSHAKE), 1)[:LIMIT],
    "hello_one_large_record_and_then_records_of_1": records(usual(least=20000), [11000, *[1] * 9000]),
    "hello_32_kib_of_almost_hosts": records(hello(NAME, Extension(PADDING, b"\nhost" * 6400 + b"t:" * 40))),
    "hello_32_kib": records(usual(least=MOST_HANDSHAKE)),
    "hello_256_extensions": records(hello(NAME, *EXTENSIONS[:255])),
    "hello_8000_extensions": records(hello(NAME, *EXTENSIONS)),
    "hello_1_kib_of_alpn": records(hello(NAME, PROTOCOLS)),
    "hello_16_kib_of_alpn": records(hello(NAME, alpn(*[b"a"] * 8000))),
    "hello_name_of_16_kib": records(hello(server_name(b"a." * 8000))),
    "head_500_fields_nearly_transfer_encoding": head(GET, HOST, *[b"Transfer-Encodin:" + b"a" * 46] * 499),
    "head_500_fields_nearly_host": head(GET, HOST, *[b"Hos:" + b"a" * 59] * 499),
    "head_500_fields_of_blanks": head(GET, *[b"Upgrad:" + b" " * 56] * 499, HOST),
    "head_500_fields_then_blanks": head(
        GET, *[b"Transfer-Encodin:\t\t\t\t\t"] * 499, b"Host:" + b" " * 20000 + b"a.test"
    ),
    "head_500_fields_and_a_long_target": head(
        b"GET http://a.test/" + b"a" * 22600 + b" HTTP/1.1", HOST, *[b"Transfer-Encodin:"] * 499
    ),
    "head_500_fields_the_last_bad": head(GET, HOST, *[b"Transfer-Encodin:" + b"a" * 46] * 498, b"X"),
    "head_8000_fields": head(GET, HOST, *[b"a:"] * 8000),
    "head_8000_fields_unfinished": head(GET, HOST, *[b"a:"] * 8000)[:-2],
    "head_8000_fields_of_h": head(GET, HOST, *[b"H:"] * 8000),
    "head_fields_nearly_host": head(GET, HOST, *[b"Hos:a"] * 4500),
    "head_fields_nearly_transfer_encoding": head(GET, HOST, *[b"Transfer-Encodin:a"] * 1600),
    "head_one_field_of_32_kib": head(GET, HOST, b"X: " + b"x" * 32700),
    "head_target_of_32_kib": head(b"GET /" + b"a" * 32700 + b" HTTP/1.1", HOST),
    "head_spaces_before_a_bad_byte": head(GET, b"Host:" + b" " * 32000 + b"\1"),
    "head_spaces_before_host": head(GET, b"Host:" + b" " * 32000 + b"a.test"),
    "head_host_of_32_kib": head(GET, b"Host: " + b"a." * 16000),
    "head_no_end": b"GET /" + b"a" * 70000,
    "head_method_of_64_kib": b"G" * LIMIT,
    "nothing_known": b"\xff" * LIMIT,
}
