"""A run that is spread over processes and machines with Ray."""
