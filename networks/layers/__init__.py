"""Parts of networks.

batch_norm   BatchNorm over groups of rows, and any network's BatchNorm turned into it
processes    what BatchNorm needs to know of the other processes of a run
resize       images to a backbone's own size, on the device
"""
