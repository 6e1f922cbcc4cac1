"""Where are the embeddings of an archive?

Parquet shards that survive a kill, and what is known of the films and the encoder behind them.
"""
