"""Building a store: plan, base images, copies, FFCV.

plan         estimates of bytes, files, time and memory
sample       the sample of a source that they are measured on
facts        facts about a store
build        a dataset store, from its source to its manifest
derive       one file of copies
executors    threads and processes
cluster      Dask clusters
export_ffcv  FFCV's files
"""
