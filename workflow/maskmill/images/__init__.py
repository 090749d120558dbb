"""Photos and label images: decoding, resizing, palettes, mask types, instance stores, file stems."""
