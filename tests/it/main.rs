//! All integration tests, one binary.

mod sockets;
