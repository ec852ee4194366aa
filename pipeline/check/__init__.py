"""Checking and repairing a store.

deep_verify  every copy made again and compared
verify_ffcv  FFCV's files compared with the store
repair       damaged files restored
"""
