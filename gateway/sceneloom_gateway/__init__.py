"""HTTPS in front of Triton: files of maps in, encoded pictures out, API keys, health and metrics.

Imports `sceneloom` only: no torch, no model. docs/gateway.md is the user's page.
"""
