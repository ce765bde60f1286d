"""Flows of Ion as traces of OpenTelemetry."""
