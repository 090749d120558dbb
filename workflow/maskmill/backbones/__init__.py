"""Networks that turn photos into tokens: timm models, the embedded ones, colours, and their weights."""
