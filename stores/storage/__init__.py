"""Where a store lies: a folder, or a bucket of object storage.

location  paths and buckets behind one interface
bucket    s3://: ranged reads, conditional writes, retries
answers   requests that a signal can interrupt
confine   paths that stay inside their store
lock      one build at a time
"""
