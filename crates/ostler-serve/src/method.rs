//! `pool.call("embed", &texts)`: a method of a worker with the package `ostler-worker`, over
//! whichever transport its pool has.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::CallOptions;
use crate::lease::Lease;
use crate::pool::ServingPool;
use crate::session::Session;
use crate::stdio::{StdioClient, StdioError};

macro_rules! method_calls {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("A client of a method (`@serve.method` in Python) of ", $whose, ".")]
            ///
            /// Over stdin and stdout where the pool has `stdin = "pipe"`, else over gRPC at its one
            /// port or Unix socket (feature `grpc`): calls, streams, functions of the host and
            /// shared memory are the same over both.
            pub fn method<Request, Response>(&self, name: impl Into<Arc<str>>) -> StdioClient<Request, Response>
            where
                Request: Serialize,
                Response: DeserializeOwned,
            {
                self.by_transport().method(name)
            }

            #[doc = concat!("Calls a method of ", $whose, ", once or in passing; see [`", stringify!($caller), "::method`].")]
            ///
            /// `()` as the request calls a function without parameters. Cancel safe: dropped, the
            /// call leaves the queue or is cancelled.
            ///
            /// # Errors
            /// The call was refused, its outcome is unknown, or the handler raised:
            /// [`StdioError::exception`].
            pub async fn call<Request, Response>(&self, method: &str, request: &Request) -> Result<Response, StdioError>
            where
                Request: Serialize + ?Sized,
                Response: DeserializeOwned,
            {
                self.call_with(method, request, &CallOptions::new()).await
            }

            /// The same, with a deadline or a mark of its own. Cancel safe in the same way.
            ///
            /// # Errors
            /// As `call`.
            pub async fn call_with<Request, Response>(
                &self,
                method: &str,
                request: &Request,
                options: &CallOptions,
            ) -> Result<Response, StdioError>
            where
                Request: Serialize + ?Sized,
                Response: DeserializeOwned,
            {
                self.by_transport::<(), Response>()
                    .method(method)
                    .call_any(request, options)
                    .await
            }

            fn by_transport<Request, Response: DeserializeOwned>(&self) -> StdioClient<Request, Response> {
                #[cfg(feature = "grpc")]
                if !self.serving().is_piped() {
                    let adapter = crate::grpc::methods::GrpcMethods::of(self.serving());
                    return StdioClient::new(crate::stdio::Via::Grpc(self.client(adapter)));
                }
                self.framed()
            }
        }
    )*};
}

method_calls! {
    ServingPool: "the pool's workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
