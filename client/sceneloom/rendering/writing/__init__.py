"""Places for pictures, and how pictures are encoded: files, tar and Parquet shards, videos."""
