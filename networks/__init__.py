"""Networks for both stages, by name; needs nothing but torch, and timm or torchvision where a name asks for them.

build        a network as the trainer trains it
network      what every network is to a method: pooled features, classifier and heads from one pass
head         how a method declares heads
wide_resnet  WRN-d-k
pretrained   load_backbone: timm's and torchvision's networks, with their weights or those of a file
hardware     the device that a network runs on, and whether it multiplies in bf16
embedded/    networks that read embeddings
layers/      BatchNorm over groups of rows, resizing
loading/     one module for each place that a network or its weights come from
"""
