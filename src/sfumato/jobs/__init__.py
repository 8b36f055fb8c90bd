"""What can be done with data and runs, the same for every field: one file for each verb, and what verbs share."""
