//! Calls to a pool's workers, with real processes: every call has one outcome, and it is the right
//! one.

mod cancel;
mod chaos;
mod grpc;
mod http;
mod renew;
mod scene;
mod stdio;
