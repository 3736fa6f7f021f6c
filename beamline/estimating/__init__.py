"""What a reduction takes: work and rates of this machine, memory, and room on disks."""
