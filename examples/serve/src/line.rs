//! An adapter for a protocol of one's own: a line goes over TCP to the worker, and a line comes
//! back.

use std::sync::Arc;

use ostler_serve::{Adapter, Attempt, BoxError, Endpoint, Fault, Worker};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Lines over TCP.
pub(crate) struct Lines;

impl Adapter for Lines {
    /// One call at a time uses it.
    type Connection = Mutex<BufReader<TcpStream>>;
    type Request = String;
    type Response = String;

    async fn connect(&self, worker: &Arc<Worker>) -> Result<Self::Connection, BoxError> {
        let Some(Endpoint::Tcp(address)) = worker.endpoint(None) else {
            return Err("the worker has no port; set port = \"any\"".into());
        };
        let stream = TcpStream::connect(address).await?;
        Ok(Mutex::new(BufReader::new(stream)))
    }

    async fn call(&self, stream: &Self::Connection, line: String, attempt: &Attempt) -> Result<String, Fault<String>> {
        let lost = |error: std::io::Error| Fault::Lost(error.into());
        let mut stream = stream.lock().await;
        attempt.sending();
        stream.write_all(format!("{line}\n").as_bytes()).await.map_err(lost)?;
        let mut answer = String::new();
        match stream.read_line(&mut answer).await.map_err(lost)? {
            0 => Err(Fault::Lost("the worker closed the connection".into())),
            _ if !answer.ends_with('\n') => Err(Fault::BadAnswer(format!("half a line: {answer:?}").into())),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}
