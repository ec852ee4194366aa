"""Methods that are fitted at once, to embeddings: what people do with a pretrained network, with and without a pool."""
