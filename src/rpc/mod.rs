//! The gRPC edge: protobuf in, domain out. No state and no lock of its own.

pub mod watch;
