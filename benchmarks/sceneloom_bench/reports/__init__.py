"""Reports of benchmarks, and their tables, plots, pages and comparisons."""
