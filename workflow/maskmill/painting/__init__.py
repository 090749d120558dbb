"""How clusters become the mask of an image, for the stages that need it (paint, evaluate) and for new images."""
