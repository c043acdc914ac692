"""From a plan to numbers: models, images, captured networks, operators, devices, workers."""
