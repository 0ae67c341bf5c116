"""The HTTP client of the service's tests; `tests.serving` has the rest."""

from collections.abc import AsyncIterator

import httpx
import pytest

from service.metrics import Metrics
from service.settings import Settings
from tests.serving import serving


@pytest.fixture
async def client(settings: Settings, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    """The service on the three bundles, in this process, counting into `metrics`."""
    async with serving(settings, metrics=metrics) as client:
        yield client
