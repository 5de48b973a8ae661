"""Fixtures that several areas share."""

pytest_plugins = ["tests.tiny_models"]
