"""Serving a student: released bundles, routes from query to answer, HTTP gateway, supervisor, telemetry."""
