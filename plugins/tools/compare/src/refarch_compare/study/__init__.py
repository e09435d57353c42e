"""Studies: techniques, tasks, backbones and seeds as a grid of pipelines that are compared fairly."""
