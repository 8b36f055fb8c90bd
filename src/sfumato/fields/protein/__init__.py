"""From a sequence to ranked backbones."""
