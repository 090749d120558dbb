"""Stage `tracks`: regions of the last masks carried through frames and slices, one number for one thing."""
