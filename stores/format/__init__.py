"""What is on disk (see `FORMAT.md`): a zarr v3 group with a manifest.

manifest     the store's description, with its own checksum
fields       what every field of a manifest must be
names        names of stores, splits and runs
file_names   names of the files that images came from
layout       arrays, chunks and shards
compression  zstd across the copies of an image
shards       one shard file: chunks, index, checksums
journal      what a build has finished
arrays       shuffled reading of images
"""
