"""Properties are held to what they say, and not to the clock: Hypothesis would fail an example that takes 200 ms, as any does on a machine whose
processor is busy elsewhere, unless it finds itself in a CI that it knows.

``--hypothesis-profile=deep`` looks a hundred times as far.
"""

from hypothesis import HealthCheck, settings

settings.register_profile("fast", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("fast"), max_examples=10_000)
settings.load_profile("fast")
