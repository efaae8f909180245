"""A pair as a few hundred columns: feature groups, the models that learn them, and their folds."""
