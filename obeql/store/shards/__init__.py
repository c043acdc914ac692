"""Shards: Parquet files of finished maps, written by worker processes and read into the store or where they lie."""
