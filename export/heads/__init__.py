"""What reads the trunk: heads fitted to the end on INT8 features, and the statistics of familiar embeddings."""
