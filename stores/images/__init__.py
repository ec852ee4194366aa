"""Image files: finding and decoding them, and refusing damaged ones.

walk      the image files in a folder
picture   size and pixels of a file, upright, with 8 bits per channel
decoders  the formats that may be opened
depth     images of 12, 16 and 32 bits per sample
jpeg      simplejpeg, with libjpeg's warnings
png       checksums of a PNG's chunks
"""
