"""Triton's own perf_analyzer as a second opinion on the same loads."""
