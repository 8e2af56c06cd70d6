"""Studies: many comparable measurements, resumable. A study returns its result; the caller draws it."""
