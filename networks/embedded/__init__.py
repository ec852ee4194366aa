"""Networks that read embeddings.

linear       linear classifier, one with a hidden layer, table of neighbours
from_images  a backbone below one of them: one network on images
"""
