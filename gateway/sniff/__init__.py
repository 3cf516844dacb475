"""Bytes in, a value out: what name do the first bytes of a connection show? Never raises."""
