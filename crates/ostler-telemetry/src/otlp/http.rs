//! The HTTP client of the exporters. They are driven by threads of the SDK without a runtime; hyper needs one.

use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// Plain HTTP, each request a task of the runtime of our own.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: HyperClient,
    runtime: Handle,
}

impl Http {
    /// Requests that take longer than `limit` have failed.
    pub(super) fn new(runtime: Handle, limit: Duration) -> Self {
        Self {
            client: HyperClient::with_default_connector(limit, None),
            runtime,
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime
            .spawn(async move { client.send_bytes(request).await })
            .await?
    }
}
