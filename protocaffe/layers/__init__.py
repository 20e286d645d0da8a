"""Layer types, one file each; importing the folder registers them (layer.layer_types)."""
