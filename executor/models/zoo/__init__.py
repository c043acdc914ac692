"""Models of torchvision and timm by name."""
