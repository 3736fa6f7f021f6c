"""From projections to slices: functions on arrays."""
