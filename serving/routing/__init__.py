"""The route of a query to its answer: head cache, kept answers, student, live teacher."""
