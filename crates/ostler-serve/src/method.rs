//! `pool.call("embed", &texts)`: a method of a worker with the package `ostler-worker`, over
//! whichever transport its pool has.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::CallOptions;
use crate::lease::Lease;
use crate::pool::ServingPool;
use crate::session::Session;
use crate::stdio::StdioError;

macro_rules! method_calls {
    ($($caller:ident: $whose:literal;)*) => {$(
        impl $caller {
            #[doc = concat!("Calls a method (`@serve.method` in Python) of ", $whose, ".")]
            ///
            /// Over stdin and stdout where the pool has `stdin = "pipe"`, else over gRPC at its one
            /// port or Unix socket (feature `grpc`). `()` as the request calls a function without
            /// parameters. For streams and large data see [`stdio`](crate::stdio).
            ///
            /// Dropped, the call leaves the queue or is cancelled.
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

            /// The same, with a deadline or a mark of its own.
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
                #[cfg(feature = "grpc")]
                if !crate::stdio::is_piped(self.serving()) {
                    let client = self.client(crate::grpc::Grpc::default());
                    let timeout = self.serving().spec().timeout;
                    return crate::grpc::plain::call(&client, timeout, method, request, options).await;
                }
                self.framed::<(), Response, crate::stdio::Packet>()
                    .method(method)
                    .call_any(request, options)
                    .await
            }
        }
    )*};
}

method_calls! {
    ServingPool: "the pool's workers";
    Session: "the session's worker";
    Lease: "the leased worker";
}
