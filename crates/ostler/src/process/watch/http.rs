//! GET, and whether the answer is a yes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{FusedFuture, join};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, Parts};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use ostler_core::answer::{MAX_HEAD, MAX_HEADERS};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, copy, sink};
use tokio::time::timeout;

/// How long, and how far, the rest of an answer is read.
const LEAVE: Duration = Duration::from_secs(1);
const LEAVE_BYTES: usize = 64 * 1024;

/// Whether GET of `path` is answered with a status from 200 to 399. Only the status counts: invalid
/// header lines are passed over, redirects are a yes and are not followed, and the answer does not
/// wait for the body, which another task reads for a while.
///
/// # Errors
/// Why not, for people.
pub(super) async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Result<(), String> {
    let request = request(authority, path, headers).map_err(|error| format!("GET {path} can't be asked: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD as usize)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("GET {path}: {error}"))?;
    let mut connection = Box::pin(connection.without_shutdown().fuse());
    let mut response = pin!(sender.send_request(request));
    // The connection may come to its end with the response in hand: that is no failure.
    let response = tokio::select! {
        response = &mut response => response,
        ended = &mut connection => response.await.map_err(|error| ended.err().unwrap_or(error)),
    };
    let response = response.map_err(|error| format!("GET {path}: {error}"))?;
    let status = response.status();
    if !connection.is_terminated() {
        tokio::spawn(timeout(LEAVE, leave(connection, response.into_body())));
    }
    if is_yes(status) {
        Ok(())
    } else {
        Err(format!("GET {path} was answered with {status}"))
    }
}

/// Reads an answer to its end, and then until the server closes, within limits. Many servers report
/// an error, with a traceback in their log, when the connection is gone before that.
async fn leave<S: AsyncRead + Unpin>(
    connection: impl Future<Output = hyper::Result<Parts<TokioIo<S>>>>,
    mut body: Incoming,
) {
    let rest = async {
        let mut left = LEAVE_BYTES;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
        drop(body);
    };
    if let (Ok(parts), ()) = join(connection, rest).await {
        let mut stream = parts.io.into_inner().take(LEAVE_BYTES as u64);
        let _ = copy(&mut stream, &mut sink()).await;
    }
}

/// The headers of the specification replace ours.
fn request(
    authority: &str,
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("ostler/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    for (name, value) in headers {
        let (name, value) = (HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

fn is_yes(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    /// What GET comes to when the server answers with these bytes and closes.
    async fn answered_with(bytes: &[u8]) -> Result<(), String> {
        let (client, mut stream) = tokio::io::duplex(1024);
        let server = async move {
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /healthz?full=1 HTTP/1.1\r\n"));
            // A head that is too large is not read to its end.
            let _ = stream.write_all(bytes).await;
        };
        let no_headers = BTreeMap::new();
        let get = get(client, "localhost", "/healthz?full=1", &no_headers);
        let (answer, ()) = tokio::join!(get, server);
        answer
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_are_a_yes() {
        for (status, yes) in [
            (200, true),
            (204, true),
            (301, true),
            (399, true),
            (400, false),
            (404, false),
            (503, false),
        ] {
            let answer = answered_with(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await;
            assert_eq!(answer.is_ok(), yes, "{status}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_body_is_not_waited_for() {
        let answer = answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nx").await;
        assert_eq!(answer, Ok(()));
    }

    #[tokio::test]
    async fn a_long_head_is_read_up_to_a_limit() {
        let many = |headers: usize| {
            let headers: String = (0..headers).map(|n| format!("X-{n}: v\r\n")).collect();
            format!("HTTP/1.1 200 OK\r\n{headers}\r\n")
        };
        assert_eq!(answered_with(many(MAX_HEADERS).as_bytes()).await, Ok(()));
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(400 * 1024));
        assert_eq!(answered_with(long.as_bytes()).await, Ok(()));
        assert!(answered_with(many(MAX_HEADERS + 1).as_bytes()).await.is_err());
        let longer = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(MAX_HEAD as usize));
        assert!(answered_with(longer.as_bytes()).await.is_err());
    }

    #[tokio::test]
    async fn invalid_header_lines_hide_no_status() {
        for line in [
            "X-Folded: one\r\n two\r\n\tthree",
            "X-Folded: one\n two",
            "X-Folded:\r\n one",
            "X-Folded: \x01\r\n one",
            "X-Spaced : v",
            "X-Spaced \t: v",
            "X Invalid: v",
            " X-Indented: v",
            "X-Control: a\x01b",
            "no colon at all",
            ": no name",
        ] {
            let head = |status| format!("HTTP/1.1 {status}\r\n{line}\r\nX-Valid: v\r\n\r\n");
            let answer = answered_with(head("200 OK").as_bytes()).await;
            assert_eq!(answer, Ok(()), "{line:?}");
            let answer = answered_with(head("503 Service Unavailable").as_bytes()).await;
            assert!(answer.is_err_and(|why| why.contains("503")), "{line:?}");
        }
    }

    /// The limits that docs/configuration.md states.
    #[tokio::test]
    async fn a_head_that_is_no_http_or_contradicts_itself_is_a_no() {
        for lines in [
            "X: a\0b\r\n",
            "X: a\rb\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: many\r\n",
        ] {
            let answer = answered_with(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes()).await;
            assert!(answer.is_err(), "{lines:?}");
        }
    }

    #[test]
    fn the_headers_of_the_specification_replace_ours() {
        let headers = [("host", "example.com"), ("Authorization", "Bearer x")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let request = request("127.0.0.1:80", "/", &headers).unwrap();
        let value = |name| request.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(value("host"), ["example.com"]);
        assert_eq!(value("authorization"), ["Bearer x"]);
    }

    #[tokio::test]
    async fn no_http_and_no_answer_are_a_no() {
        assert!(answered_with(b"SSH-2.0-OpenSSH_9.9\r\n").await.is_err());
        assert!(answered_with(b"HTTP/1.1 200").await.is_err());
        assert!(answered_with(b"").await.is_err());
    }

    #[tokio::test]
    async fn an_invalid_path_is_an_error() {
        let (nowhere, _) = tokio::io::duplex(1);
        assert!(
            get(nowhere, "localhost", "/a b", &BTreeMap::new())
                .await
                .unwrap_err()
                .contains("can't be asked")
        );
    }
}
