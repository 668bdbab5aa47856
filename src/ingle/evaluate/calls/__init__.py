"""API calling: a request, the tools at hand, and the call that should be made, or none."""
