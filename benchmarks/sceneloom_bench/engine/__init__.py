"""`sceneloom bench engine`: every engine of this machine beside its peers, in turn."""
