"""MLPerf's LoadGen as the judge of a Triton server: its load, its verdict, its summary."""
