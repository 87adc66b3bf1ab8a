"""What every program needs whatever it computes: files, command lines, processes, resumable state, params files."""
