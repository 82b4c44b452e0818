"""From files on disk to batches: prepare -> folds -> sources -> loaders."""
