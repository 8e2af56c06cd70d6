"""Images, questions and answers: from files, from folders, and the sets that come with the project."""
