//! The embedded presence: in process.
