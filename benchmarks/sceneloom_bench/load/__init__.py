"""A Triton server under load: closed and open loops of requests, and what it says of itself."""
