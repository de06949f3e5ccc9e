"""Methods of the family embeddings: encoders, retrieval and ranking."""
