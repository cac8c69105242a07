"""Telemetry of a service: Prometheus metrics, OpenTelemetry traces, logs."""
