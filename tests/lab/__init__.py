"""A small internet in two network namespaces: the gateway's ``host``, and ``net``.

``net`` holds origins, DNS, a metadata server, private decoys and an attacker.

Nothing in the machine's own namespace ever routes to the addresses used here. ``lab.Lab`` builds and
removes it; ``places`` is its map.
"""
