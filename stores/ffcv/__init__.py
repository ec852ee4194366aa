"""The second format of a store's pixels, FFCV's `.beton`.

beton    the file format: what a file says of itself
reading  an array of images read through FFCV's Loader
"""
