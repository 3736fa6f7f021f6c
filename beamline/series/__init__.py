"""Many scans reduced together: found, told apart, cut into pieces for one machine or many, and accounted for."""
