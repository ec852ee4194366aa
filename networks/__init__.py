"""Networks for both stages: pretrained backbones, and how images of any size become their input.

pretrained   load_backbone: timm's and torchvision's networks by name, with their weights or those of a file
resize       images to a backbone's own size, on the device
hardware     the device, and whether it multiplies in bf16
loading/     one module for each place that a network or its weights come from

Needs nothing but torch to import; timm and torchvision (the extra `backbones`) are imported when a name asks for them.
"""
