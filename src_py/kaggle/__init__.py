"""What the platform gives and takes: attached inputs, hardware, time, files that survive, runs that resume."""
