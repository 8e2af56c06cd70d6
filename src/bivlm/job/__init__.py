"""The main job: the request, the plan, and the run."""
