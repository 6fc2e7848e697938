"""Data sets of maps: folders, zip files, tar shards and Parquet, local or remote."""
