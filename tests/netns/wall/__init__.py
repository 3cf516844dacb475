"""The kernel's wall around a sandbox that ``egress run`` made, tried from inside with raw frames and seen from the far side."""
