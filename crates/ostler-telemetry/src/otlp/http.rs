//! The HTTP client of the exporters. The SDK's threads drive them without a runtime, which hyper
//! needs.

use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// A plain HTTP client that runs each request as a task of our own runtime.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: HyperClient,
    runtime: Handle,
}

impl Http {
    /// Creates a client whose requests fail after `limit`.
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
