"""Embeddings of a store's images and copies under a frozen network: `realmix-data embed`.

pictures  the pictures behind each array of embeddings
ahead     preparing them ahead of the network
frozen    the network, from uint8 pictures to float16 embeddings
files     whole files of embeddings, one after another
remote    one file, on a worker of a Dask cluster
job       a store of embeddings, from its request to its manifest
estimate  time and bytes, before a job begins
"""
