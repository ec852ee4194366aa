"""Where a store lies: a folder, or a bucket of object storage.

location  paths and buckets behind one interface
bucket    s3://: ranged reads, conditional writes, retries
answers   a bucket that does not answer
confine   paths in a manifest stay inside their store
lock      one writer at a time
"""
