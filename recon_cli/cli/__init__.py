"""The command line: one small file per subcommand, the output sink, and nothing that computes."""
