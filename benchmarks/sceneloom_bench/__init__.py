"""Benchmarks: latency and load, measured honestly."""
