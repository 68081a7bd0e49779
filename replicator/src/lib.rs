//! The workers that run the planner's plans over transport, dedup and repository.
