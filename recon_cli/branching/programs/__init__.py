"""The branched network as a program of its own: graphs in which only what differs between the tasks is there twice."""
