"""Building a store: plan, base images, copies, FFCV.

plan         bytes and minutes before anything is written
sample       a small sample of a source, to measure them
facts        what a store holds, for people
build        a dataset store, from its source to its manifest
derive       the copies of some images
executors    processes that make copies
cluster      a Dask cluster that makes copies
export_ffcv  the copies as FFCV's files
"""
