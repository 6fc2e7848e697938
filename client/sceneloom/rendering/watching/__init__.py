"""What can be seen of a run: progress, log lines, metrics, the summary at its end."""
