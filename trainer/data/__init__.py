"""From a store to a step's batch: which images, from where, and ahead of the step.

loader      batches of a run as a function of (seed, step)
placement   where the unlabelled images are held, decided once
memory      free memory, and the refusal of what does not fit
resident    images in memory, gathered by index
parametric  copies drawn from images and boxes
sampler     the shuffled order of a resident pool
mixing      the shuffled order of a stream
streaming   images read from the store through a bounded window
slabs       several batches gathered at once
crew        threads that decode
prefetch    steps prepared ahead
to_device   copies to the GPU
"""
