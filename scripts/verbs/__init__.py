"""What can be typed? One file a verb of the command line, named like it, in folders as the help groups them."""
