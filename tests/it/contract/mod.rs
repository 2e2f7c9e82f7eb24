//! The contracts of the outer parts: the same cases run against each implementation.

mod broker;
mod inbox;
mod presence;
