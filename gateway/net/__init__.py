"""All I/O of the path, and no policy. ``session.py`` awaits what stands here and nothing of asyncio, so that the driver underneath can change."""
