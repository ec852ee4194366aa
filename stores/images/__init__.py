"""Image files: found, decoded, turned upright, and refused when they are damaged.

walk      the image files in a folder
picture   size and pixels of a file, upright, 8 bits a channel
decoders  the formats that may be opened, and by what
depth     12-, 16- and 32-bit pictures to 8 bits
jpeg      simplejpeg, with libjpeg's warnings
png       checksums of a PNG's chunks
"""
