"""Is it the data or the code? Many short trainings on growing subsets, and what they say."""
