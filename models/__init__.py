"""Networks: `build.build_model` makes one by its name."""
