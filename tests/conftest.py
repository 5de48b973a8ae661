"""Fixtures and settings that several areas share."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.incidents", "tests.tiny_models"]

# a busy machine is no fault of the code
settings.register_profile("honed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("honed")
