"""Settings: flags, stages and YAML files."""
