"""/metrics for Prometheus. Runs in the server's threads; what the metrics are is in `metrics`."""

from flask import Response

from mqworker.http.routing import API, Api, Route


def metrics(api: Api) -> Response:
    """Return all families in Prometheus' text format."""
    # Prometheus' client takes about 5 % of the Service's start, and many services are never scraped.
    from mqworker.http.metrics import CONTENT_TYPE, render  # noqa: PLC0415 - as said

    return Response(render(api), content_type=CONTENT_TYPE)


ROUTES = [Route("GET", f"{at}/metrics", metrics, "Metrics for Prometheus") for at in ("", API)]
