"""What may be given to a verb? Types and options that several verbs share."""
