"""Which images are labelled, unlabelled, for validation and for testing.

draw          labelled images in proportion to the classes
mismatch      class mismatch
protocols     requests, and the standard ones of each data set
split_stores  writing split stores
"""
