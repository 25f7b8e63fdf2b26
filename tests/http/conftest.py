"""Provides a LittleService for each test."""

import pytest

from tests.http.operator import LittleService


@pytest.fixture
def service(tmp_path):
    little = LittleService(tmp_path)
    yield little
    little.close()
