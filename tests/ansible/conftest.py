"""Fixtures of the engine, shared with the tests of the images."""

from tests.images.engine import base_image, docker  # noqa: F401
