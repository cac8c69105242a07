"""What a service tells its operators: Prometheus metrics, OpenTelemetry traces, logs."""
