"""PerimeterFit: fits class maps to the perimeters in the picture; masks from image labels."""
