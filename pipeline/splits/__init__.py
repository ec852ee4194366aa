"""Which images are labelled, unlabelled, held out or foreign.

draw          class-balanced draws of labelled images
mismatch      class-mismatch sets
protocols     a protocol by name
split_stores  split stores
"""
