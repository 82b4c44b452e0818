"""What says where the mask of an image is: rows of a csv or mask files, and their names."""
