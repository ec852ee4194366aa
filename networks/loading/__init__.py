"""Where networks and weights come from.

from_timm         timm:NAME
from_torchvision  torchvision:NAME
hub               whether timm's hub can be reached
files             .safetensors and .pth files, which run no code
packaged          ImageNet weights of a Python package, for machines without a way to a hub
"""
