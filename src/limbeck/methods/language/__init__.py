"""Methods for language models, which also work for other outputs with classes."""
