"""A network to first order: gradients on the unoccluded image, and runs that count what they leave out by them."""
