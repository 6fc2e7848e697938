"""Requests to a Triton server: one file a transport, and the client over them."""
