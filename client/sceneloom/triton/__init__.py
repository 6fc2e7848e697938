"""Requests to a Triton server: one file a transport, the client over them, and the encoded path."""
