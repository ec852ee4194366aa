"""From a store to the batches of a run: which samples, from where, read ahead of the step.

split       the store that a run trains from
embedded    embeddings of its images
loader      the batches of a run, each a function of (seed, step)
placement   where the unlabelled images are held, decided once
memory      free memory, a check before anything is read, and reusable buffers
resident    images in memory, gathered by index
parametric  copies drawn from base images and boxes
streaming   images read from the store through a bounded window
sampler     the shuffled order of resident images
mixing      the shuffled order of a stream
prefetch    threads that work ahead: blocks of steps, chunks of a stream
to_device   asynchronous copies to the GPU
"""
