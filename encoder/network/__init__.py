"""Which network makes a vector of a study? Its configuration, its modules, and the checkpoint that holds both."""
