"""From files on disk to batches: sample or prepare -> splits -> siim."""
