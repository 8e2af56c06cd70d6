"""Studies: many measurements side by side, resumable. A study returns its result; the caller draws it."""
