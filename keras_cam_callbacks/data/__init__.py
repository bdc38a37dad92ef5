"""From what people have to arrays: validation data, value ranges, regions and image files."""
