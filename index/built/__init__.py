"""What does an index on disk hold? The FAISS index and its kinds, the collection around it, and its map."""
