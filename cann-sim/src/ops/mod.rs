//! The operators: one function a row of the table, named as the row in snake case, which checks its arguments against
//! the operator's reference page (first phase) and returns what the stream runs later (second phase).
