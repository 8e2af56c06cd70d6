"""The main job: what is asked for, what will be done, and doing it."""
