"""Checking and repairing a store from what it was made of.

deep_verify  every copy made again and compared
verify_ffcv  FFCV's files against the store
repair       damaged files made again
"""
