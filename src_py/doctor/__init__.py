"""Why a model does not learn: checks before training, a watcher during it, a verdict after it."""
