"""The branched network as a module that runs: its views, its tree of names, and the engines."""
